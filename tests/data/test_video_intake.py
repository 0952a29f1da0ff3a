"""What people give as a data set of videos, and what comes of it: clips, what is left out, or a sentence."""

import re
from pathlib import Path

import pytest
from PIL import Image

from dna_hf.data.arguments import VideoDataArguments
from dna_hf.data.clips import Clip
from dna_hf.data.errors import DataError
from dna_hf.data.video_folders import clip_of, video_files
from dna_hf.data.video_sources import load_split, load_train_and_eval
from dna_hf.data.videos import VideoReader
from dna_hf.models.video_decoding import FrameSampling
from tests.kit.video_intake import CASES
from tests.kit.videos import numbered, numbers_of, write_video


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


@pytest.mark.parametrize("labels", ["02", "2", "0"])
def test_labels_are_numbered_by_the_classes_of_a_model(tmp_path, labels):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "b.mp4").touch()
    lines = [f"{name}.mp4,{label}" for name, label in zip("ab", labels, strict=False)]
    (tmp_path / "test.csv").write_text("\n".join(lines) + "\n")
    arguments = VideoDataArguments(dataset=str(tmp_path))
    split = load_split(arguments, "test", known=["0", "1", "2"])
    assert split.class_names == ["0", "1", "2"] and [clip.label for clip in split.clips] == [*map(int, labels)]
    with pytest.raises(DataError):
        load_split(arguments, "test", known=["jump", "run"])


def test_frames_by_number_are_those_of_the_part(tmp_path):
    numbers = list(range(20))
    video = write_video(tmp_path / "v.mp4", numbers)
    reader = VideoReader(60)
    try:
        for part, expected in (((4, 8), [4, 5, 6, 7]), ((16, None), [16, 17, 18, 19]), ((18, 99), [18, 19])):
            count = len(expected)
            frames = reader.read(Clip(str(video), 0, part=part), FrameSampling("uniform", count))
            assert numbers_of(frames.permute(0, 2, 3, 1).numpy()) == expected
        with pytest.raises(DataError, match="it has 20 frames, and none from number 20 on"):
            reader.read(Clip(str(video), 0, part=(20, 30)), FrameSampling("uniform", 4))
    finally:
        reader.close()


# what PyAV can be asked to write here, of the suffixes that people have
WRITTEN = {
    **dict.fromkeys((".MP4", ".m4v", ".mov", ".3gp", ".mkv", ".ts", ".MTS"), ("libx264", "yuv420p")),
    **dict.fromkeys((".avi", ".mpg", ".mpeg", ".vob"), ("mpeg2video", "yuv420p")),
    ".wmv": ("wmv2", "yuv420p"),
    ".asf": ("wmv2", "yuv420p"),
    ".flv": ("flv", "yuv420p"),
    ".ogv": ("libvpx", "yuv420p"),
    ".webm": ("libvpx", "yuv420p"),
    ".gif": ("gif", "rgb8"),
    ".mjpeg": ("mjpeg", "yuvj420p"),
}


@pytest.mark.parametrize("suffix", WRITTEN)
def test_files_of_these_suffixes_are_found_and_read(tmp_path, suffix):
    codec, pixels = WRITTEN[suffix]
    (tmp_path / "jump").mkdir()
    path = write_video(tmp_path / "jump" / f"v{suffix}", list(range(8)), codec=codec, pixel_format=pixels, fps=25)
    assert video_files([tmp_path]) == [path]
    reader = VideoReader(60)
    try:
        frames = reader.read(clip_of(path), FrameSampling("uniform", 4))
    finally:
        reader.close()
    assert numbers_of(frames.permute(0, 2, 3, 1).numpy()) == [1, 3, 5, 7]


@pytest.mark.parametrize("suffix", [".webp", ".bmp", ".tif", ".png"])
def test_a_folder_of_frames_is_one_video(tmp_path, suffix):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(12):
        Image.fromarray(numbered(number)).save(folder / f"f{number}{suffix}")
    (folder / "notes.md").touch()
    assert video_files([folder]) == video_files([tmp_path]) == [folder]
    frames = clip_of(folder).frames_for(FrameSampling("uniform", 4), None)
    assert numbers_of(frames) == [1, 4, 7, 10]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no video"):
        video_files([tmp_path / "empty"])
