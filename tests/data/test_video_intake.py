"""What people give as a data set of videos, and what comes of it: clips, what is left out, or a sentence."""

import re
from pathlib import Path

import pytest

from dna_hf.data.arguments import VideoDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.video_sources import load_split, load_train_and_eval
from tests.kit.video_intake import CASES


def told(split, root):
    """The clips of a split as the cases write them."""
    lines = []
    for clip in split.clips:
        line = f"{Path(clip.path).relative_to(root).as_posix()} {split.class_names[clip.label]}"
        if clip.frames:
            line += f" #{len(clip.frames)}"
        if clip.part:
            line += f" {clip.part[0]}:{clip.part[1]}"
        if (clip.start, clip.end) != (None, None):
            line += f" {clip.start}-{clip.end}"
        lines.append(line)
    return lines


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_is_given_is_used_or_named(case, tmp_path):
    case.build(tmp_path)
    arguments = VideoDataArguments(dataset=str(tmp_path / case.dataset), **case.options)

    def read():
        return [load_split(arguments, case.split)] if case.split else list(load_train_and_eval(arguments, seed=0))

    if case.error is not None:
        with pytest.raises(DataError, match=case.error) as refused:
            read()
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
        return
    splits = read()
    assert {split.name: sorted(told(split, tmp_path)) for split in splits} == {
        name: sorted(clips) for name, clips in case.clips.items()
    }
    for split in splits:
        left_out = {Path(one.path).relative_to(tmp_path).as_posix(): one.reason for one in split.left_out}
        assert left_out.keys() == case.left_out.keys()
        for name, reason in case.left_out.items():
            assert re.search(reason, left_out[name])
    if case.note is not None:
        assert any(re.search(case.note, note) for note in splits[0].notes), splits[0].notes


def test_there_are_enough_cases_and_each_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES) >= 40
