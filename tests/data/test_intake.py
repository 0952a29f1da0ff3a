"""What people give as a data set of images, and what comes of it: counts, classes, what is left out, or a sentence.

Every image is of one colour, which says its class: so a label is compared with what the image shows, not with the
folder that it was taken from.
"""

import re
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.sources import load_split, load_train_and_eval
from tests.kit.intake import COLOURS
from tests.kit.intake_folders import FOLDERS
from tests.kit.intake_tables import FILES_OF_TABLES


CASES = [*FOLDERS, *FILES_OF_TABLES]


def seen(split) -> dict[tuple[str, str], int]:
    """What images show, and the names of their labels -> how many."""
    found = Counter()
    for source, label in zip(split.rows[split.image_column], split.labels().tolist(), strict=True):
        pixel = np.asarray(datasets.Image().decode_example(source).convert("RGB"))[0, 0].astype(int)
        shows = min(COLOURS, key=lambda name: np.abs(pixel - COLOURS[name]).sum())
        found[shows, split.class_names[label]] += 1
    return found


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_is_given_is_used_or_named(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    root = tmp_path / "data set"
    root.mkdir()
    case.build(root)
    options = dict(case.options)
    if isinstance(options.get("class_names"), str):
        options["class_names"] = str(root / options["class_names"])
    arguments = ImageDataArguments(dataset=str(root / case.dataset), **options)

    def read():
        return [load_split(arguments, case.split)] if case.split else list(load_train_and_eval(arguments, seed=0))

    if case.error is not None:
        with pytest.raises(DataError, match=case.error) as refused:
            read()
        assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
        return
    splits = read()
    found = {}
    for split in splits:
        found[split.name] = Counter()
        for (shows, name), count in seen(split).items():
            assert name == case.renamed.get(shows, shows)
            found[split.name][name] += count
    assert found == case.counts
    for split in splits:
        left_out = {Path(one.path).name: one.reason for one in split.left_out}
        assert left_out.keys() == case.left_out.keys()
        for name, reason in case.left_out.items():
            assert re.search(reason, left_out[name])
        assert {*split.rows.column_names} >= {split.image_column, split.label_column, *case.columns}
    if case.note is not None:
        assert any(re.search(case.note, note) for note in splits[-1].notes), splits[-1].notes


def test_there_are_enough_cases_and_each_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES) >= 60
