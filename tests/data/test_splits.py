"""Splits of images and of videos: one hold-out, one choice of what to evaluate on, one way to take fewer."""

from collections import Counter

import datasets
import numpy as np
import pytest

from dna_hf.data.arguments import ImageDataArguments, VideoDataArguments
from dna_hf.data.clips import Clip, LabelledVideos
from dna_hf.data.errors import DataError
from dna_hf.data.labelled_images import LabelledImages
from dna_hf.data.motion import motion_splits
from dna_hf.data.splits import already, read_split, read_train_and_eval, stratified_parts
from dna_hf.models.video_decoding import FrameSampling


LABELS = [number % 3 for number in range(30)]
NAMES = ["cat", "dog", "bird"]


def images(labels=LABELS, name="train", names=NAMES, label=None):
    features = datasets.Features(
        {"number": datasets.Value("int64"), "label": label or datasets.ClassLabel(names=names)}
    )
    rows = {"number": list(range(len(labels))), "label": labels}
    return LabelledImages(datasets.Dataset.from_dict(rows, features=features), "image", "label", names, name)


def videos(labels=LABELS, name="train", names=NAMES):
    return LabelledVideos([Clip(str(number), label) for number, label in enumerate(labels)], names, name)


def numbers(split):
    return split.rows["number"][:] if isinstance(split, LabelledImages) else [int(clip.path) for clip in split.clips]


KINDS = {"images": (images, ImageDataArguments), "videos": (videos, VideoDataArguments)}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def test_both_hold_out_the_same_samples_of_the_same_labels():
    found = []
    for make, arguments in KINDS.values():
        train, held = read_train_and_eval({"train": already(make())}, arguments(validation_fraction=0.2), 3)
        assert (len(train), len(held), train.name, held.name) == (24, 6, "train", "held out")
        assert Counter(held.labels().tolist()) == {0: 2, 1: 2, 2: 2}
        assert sorted(numbers(train) + numbers(held)) == list(range(30))
        found.append(set(numbers(held)))
    assert found[0] == found[1]
    other, _ = read_train_and_eval({"train": already(images())}, ImageDataArguments(validation_fraction=0.2), 4)
    assert set(numbers(other)) != set(range(30)) - found[0]


def test_images_whose_labels_have_no_names_in_the_data_are_stratified_too():
    parts = []
    for label in (datasets.Value("int64"), datasets.ClassLabel(names=NAMES)):
        _, held = read_train_and_eval({"train": already(images(label=label))}, ImageDataArguments(), 0)
        assert Counter(held.labels().tolist()) == {0: 1, 1: 1, 2: 1}
        parts.append(numbers(held))
    assert parts[0] == parts[1]


@pytest.mark.parametrize("seed", range(8))
def test_a_stratified_part_is_that_of_datasets(seed):
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(7), np.arange(7), random.geometric(0.3, 93).clip(1, 7) - 1])
    labels = random.permutation(labels)
    count = int(random.integers(7, 60))
    features = datasets.Features({"label": datasets.ClassLabel(num_classes=7), "number": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"label": labels, "number": range(len(labels))}, features=features)
    expected = rows.train_test_split(count, seed=seed, stratify_by_column="label")
    kept, held = stratified_parts(labels, count, np.random.default_rng(seed))
    assert kept.tolist() == expected["train"]["number"][:]
    assert held.tolist() == expected["test"]["number"][:]


def test_what_is_held_out_is_a_split_of_its_own(kind):
    make, arguments = kind
    readers = {"train": already(make())}
    _, held = read_train_and_eval(readers, arguments(validation_fraction=0.2), 3)
    for name in ("held-out", "held out"):
        again = read_split(readers, name, arguments(validation_fraction=0.2), 3)
        assert numbers(again) == numbers(held) and again.name == "held out"
        assert "6 of 30" in again.notes[-1] and "seed 3" in again.notes[-1]
    with pytest.raises(DataError, match="give --seed"):
        read_split(readers, "held-out", arguments())
    with pytest.raises(DataError, match="'test'.* has train; held-out is the part"):
        read_split(readers, "test", arguments())
    with pytest.raises(DataError, match="nothing of data set .* is held out, for it has split 'val'"):
        read_split(readers | {"val": already(make(name="val"))}, "held-out", arguments(), 3)


def test_nothing_is_held_out_where_nothing_is_evaluated(kind):
    make, arguments = kind
    train, evaluation = read_train_and_eval({"train": already(make())}, arguments(), 0, hold_out=False)
    assert len(train) == 30 and evaluation is None
    readers = {"train": already(make()), "test": already(make(name="test"))}
    assert read_train_and_eval(readers, arguments(), 0, hold_out=False)[1].name == "test"


@pytest.mark.parametrize(
    ("labels", "fraction", "message"),
    [
        ([0, 0, 1, 2, 2], 0.4, "class 'dog' has only one: add more.*eval_strategy: no"),
        ([0, 1], 0.4, "each of 'cat', 'dog' has only one"),
        (
            [0, 0, 1, 1, 2, 2, 2, 2, 2, 2],
            0.2,
            "is 2, so that fewer are held out than .* (3: cat, dog, bird).*at least 0.3",
        ),
        ([0, 0, 1, 1, 2, 2], 0.9, "fewer are left to train on .* set it to at most 0.5"),
    ],
)
def test_what_cannot_be_held_out_names_class_and_remedy(kind, labels, fraction, message):
    make, arguments = kind
    with pytest.raises(DataError, match=message.replace("(3:", r"\(3:").replace("bird)", r"bird\)")):
        read_train_and_eval({"train": already(make(labels))}, arguments(validation_fraction=fraction), 0)


def test_classes_in_another_order_or_fewer_are_brought_in_line(kind):
    make, arguments = kind
    other = make([0, 1, 1], name="test", names=["bird", "cat"])
    train, test = read_train_and_eval({"train": already(make()), "test": already(other)}, arguments(), 0)
    assert test.class_names == train.class_names and test.labels().tolist() == [2, 0, 0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("test", "dev", "val", "train"), "val"),
        (("test", "dev", "train"), "dev"),
        (("testing", "train"), "testing"),
        (("Validation", "train"), "Validation"),
        (("extra", "train"), "held out"),
    ],
)
def test_what_is_evaluated_on_where_nothing_is_said(kind, names, expected):
    make, arguments = kind
    readers = {name: already(make(name=name)) for name in names}
    assert read_train_and_eval(readers, arguments(), 0)[1].name == expected


def test_a_split_is_found_by_its_other_names_too(kind):
    make, arguments = kind
    readers = {"training": already(make(name="training")), "val": already(make(name="val"))}
    assert read_split(readers, "validation", arguments()).name == "val"
    assert read_split(readers, "train", arguments()).name == "training"
    with pytest.raises(DataError, match="has no split 'test': it has training, val"):
        read_split(readers, "test", arguments())


def test_classes_have_to_agree(kind):
    make, arguments = kind
    readers = {"train": already(make()), "val": already(make(names=["cat", "dog", "fish"], name="val"))}
    with pytest.raises(DataError, match=r"'train' and 'val' name different classes \(bird, fish\): give class_names"):
        read_train_and_eval(readers, arguments(), 0)
    readers = {"train": already(make([0, 2])), "val": already(make([0, 1], name="val"))}
    with pytest.raises(DataError, match=f"'val' has {make().unit} of class 'dog', but split 'train' has none"):
        read_train_and_eval(readers, arguments(), 0)


def test_fewer_samples_are_spread_over_a_split(kind):
    make, _ = kind
    assert numbers(make().at_most(4)) == [0, 9, 19, 29]
    assert numbers(make().at_most(99)) == numbers(make().at_most(None)) == list(range(30))


def test_a_clip_of_the_motion_task_is_drawn_and_not_decoded():
    clip = motion_splits()["test"].clips[0]
    frames = clip.frames_for(FrameSampling("uniform", 3, 1), decoder=None)
    rendered = clip.render()
    assert frames.shape == (3, *rendered.shape[1:]) and frames.dtype == np.uint8
    assert all(any((frame == other).all() for other in rendered) for frame in frames)


@pytest.mark.parametrize(
    "given",
    [{"train_split": "test"}, {"eval_split": "train"}, {"eval_split": "training"}, {"train_split": "testing"}],
    ids=str,
)
def test_nothing_is_evaluated_on_what_is_trained_on(kind, given):
    make, arguments = kind
    readers = {name: already(make(name=name)) for name in ("train", "test")}
    with pytest.raises(DataError, match="train_split and eval_split are both '(test|train)': set one of them"):
        read_train_and_eval(readers, arguments(**given), 0)


def test_a_split_to_evaluate_on_may_be_trained_on_where_nothing_is_evaluated(kind):
    make, arguments = kind
    readers = {name: already(make(name=name)) for name in ("train", "test")}
    train, evaluation = read_train_and_eval(readers, arguments(train_split="test"), 0, hold_out=False)
    assert train.name == "test" and evaluation is None


@pytest.mark.parametrize("fraction", [0.1, 0.2])
def test_a_fraction_without_effect_is_named(kind, fraction):
    make, arguments = kind
    readers = {name: already(make(name=name)) for name in ("train", "test")}
    _, evaluation = read_train_and_eval(readers, arguments(validation_fraction=fraction), 0)
    said = f"validation_fraction {fraction} has no effect: split 'test' is there."
    assert evaluation.notes == ((said,) if fraction != 0.1 else ())
