"""RandAugment, random erasing and repeated augmentation."""

import random as python_random
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.augmentation import TrainingAugmentation
from dna_hf.data.errors import DataError
from dna_hf.data.images import image_processor, torch_dataset
from dna_hf.data.sampling import RepeatedSampler
from dna_hf.data.sources import load_split


def augmentation(size=(32, 32), colour=(0.5, 0.5, 0.5), **values):
    return TrainingAugmentation(ImageDataArguments(**values), size, Image.Resampling.BICUBIC, colour)


def picture(seed=0, size=(40, 36)):
    noise = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def embedded(**values):
    arguments = ImageDataArguments(**values)
    processor = image_processor(arguments, (28, 28))
    images = load_split(arguments, "test")
    images.rows = images.rows.select(range(30))
    return torch_dataset(images, processor, TrainingAugmentation(arguments, (28, 28), processor.resample), seed=5)


# -- random erasing


def erased_box(seed, augment, size=(3, 60, 40)):
    """The erased rectangle (top, left, height, width), `None` without one, checked to be one of noise."""
    pixels = torch.full(size, 9.0)
    result = augment.erase(pixels, np.random.default_rng(seed))
    assert torch.equal(pixels, torch.full(size, 9.0))
    changed = (result != 9.0).any(0).nonzero()
    if not len(changed):
        return None
    (top, left), (bottom, right) = changed.min(0).values.tolist(), changed.max(0).values.tolist()
    inside = result[:, top : bottom + 1, left : right + 1]
    assert (inside != 9.0).all()
    return top, left, bottom + 1 - top, right + 1 - left


def test_erasing_has_the_wanted_rate_area_and_ratio():
    augment = augmentation(erasing_probability=0.25)
    boxes = [erased_box(seed, augment) for seed in range(4000)]
    found = np.array([box for box in boxes if box is not None])
    assert abs(len(found) / len(boxes) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(boxes))
    top, left, height, width = found.T
    part, ratio = height * width / 2400, width / height
    # uniform in [0.02, 1/3], but for the rounding and for draws that do not fit into the image
    assert 0.01 < part.min() < 0.03 and 0.25 < part.max() < 0.36
    assert 0.25 < ratio.min() < 0.45 and 2.0 < ratio.max() < 3.6
    assert top.min() == left.min() == 0 and (top + height).max() == 60 and (left + width).max() == 40


def test_erased_pixels_are_standard_normal():
    augment = augmentation(erasing_probability=1.0)
    values = []
    for seed in range(200):
        result = augment.erase(torch.full((3, 32, 32), 9.0), np.random.default_rng(seed))
        values.append(result[result != 9.0])
    values = torch.cat(values).double()
    assert abs(values.mean()) < 5 / len(values) ** 0.5
    assert abs(values.var() - 1) < 0.05


def test_erasing_is_off_by_default_and_certain_at_one():
    pixels = torch.ones(3, 32, 32)
    assert augmentation().erase(pixels, np.random.default_rng(0)) is pixels
    assert all(erased_box(seed, augmentation(erasing_probability=1.0)) for seed in range(50))


def test_erasing_leaves_the_picture_alone():
    """The same crops and flips come with and without erasing: it draws after them."""
    plain, erasing = embedded(), embedded(erasing_probability=1.0)
    for row in range(10):
        before, after = plain[row]["pixel_values"], erasing[row]["pixel_values"]
        kept = (before == after).float().mean()
        assert 0.5 < kept < 1


# -- RandAugment


def test_a_missing_timm_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "timm.data.auto_augment", None)
    with pytest.raises(DataError, match=r"auto_augment needs timm .*dna-hf\[recipes\]"):
        augmentation(auto_augment="rand-m9-mstd0.5-inc1")


def test_rand_augment_is_timms_with_the_same_random_numbers():
    timm = pytest.importorskip("timm.data.auto_augment", reason="timm is not installed")
    augment = augmentation(
        auto_augment="rand-m9-mstd0.5-inc1",
        crop_scale=[1.0, 1.0],
        flip_probability=0.0,
        colour=[0.485, 0.456, 0.406],
    )
    reference = timm.rand_augment_transform(
        "rand-m9-mstd0.5-inc1",
        {"translate_const": 14, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC},
    )
    changed = 0
    for seed in range(60):
        result = augment(picture(seed), np.random.default_rng(seed))
        generator = np.random.default_rng(seed)
        generator.random()  # the flip
        number = int(generator.integers(2**32))
        python_random.seed(number)
        np.random.seed(number)
        plain = picture(seed).resize((32, 32), Image.Resampling.BICUBIC)
        expected = reference(plain)
        assert np.array_equal(np.asarray(result), np.asarray(expected))
        changed += not np.array_equal(np.asarray(result), np.asarray(plain))
    # two operations, each with probability 1/2
    assert 30 < changed < 58


def test_rand_augment_repeats_and_leaves_the_generators_of_others_alone():
    pytest.importorskip("timm.data.auto_augment", reason="timm is not installed")
    dataset = embedded(auto_augment="rand-m9-mstd0.5-inc1")
    before = python_random.getstate(), np.random.get_state()[1].copy()
    first = [dataset[row]["pixel_values"] for row in range(10)]
    assert python_random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    python_random.seed(3)
    np.random.seed(3)
    assert all(torch.equal(dataset[row]["pixel_values"], pixels) for row, pixels in enumerate(first))


@pytest.mark.parametrize("name", ["m9", "rand-q9", "rand-mx", "rand-m9-mstd", "augmix-m5", ""])
def test_an_unknown_policy_is_refused(name):
    with pytest.raises(DataError, match="auto_augment is RandAugment in timm's notation"):
        augmentation(auto_augment=name)


# -- repeated augmentation


def test_an_epoch_has_every_drawn_image_several_times_in_a_row():
    dataset = embedded()
    pairs = list(RepeatedSampler(dataset, 3, seed=0))
    assert len(pairs) == len(dataset) == 30
    rows = [row for row, _ in pairs]
    assert [copy for _, copy in pairs] == [0, 1, 2] * 10
    assert rows[0::3] == rows[1::3] == rows[2::3]
    assert len(set(rows)) == 10


def test_the_order_depends_on_seed_and_epoch_alone():
    dataset = embedded()
    first = list(RepeatedSampler(dataset, 3, seed=0))
    assert first == list(RepeatedSampler(dataset, 3, seed=0))
    assert first != list(RepeatedSampler(dataset, 3, seed=1))
    dataset.set_epoch(1)
    assert first != list(RepeatedSampler(dataset, 3, seed=0))


def test_an_epoch_that_the_repeats_do_not_divide_is_cut():
    class Dataset:
        epoch = 0

        def __len__(self):
            return 10

    pairs = list(RepeatedSampler(Dataset(), 4, seed=0))
    assert [copy for _, copy in pairs] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_copies_differ_and_the_first_is_the_usual_view():
    dataset = embedded(erasing_probability=0.5)
    views = dataset.__getitems__([(4, 0), (4, 1), (4, 2), (7, 0)])
    assert [view["rows"] for view in views] == [4, 4, 4, 7]
    assert torch.equal(views[0]["pixel_values"], dataset[4]["pixel_values"])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(views[one]["pixel_values"], views[other]["pixel_values"])
    assert len(list(iter(dataset))) == 30


# -- evaluation of fresh models


def test_crop_pct_resizes_the_short_side_and_cuts_the_centre():
    arguments = ImageDataArguments(crop_pct=0.875, interpolation="bicubic")
    processor = image_processor(arguments, (28, 28))
    source = picture(size=(80, 64))
    pixels = processor(source, return_tensors="pt")["pixel_values"][0]
    resized = np.asarray(source.resize((40, 32), Image.Resampling.BICUBIC))
    centre = (resized[2:30, 6:34] / 255 - 0.5) / 0.5
    assert torch.allclose(pixels, torch.from_numpy(centre).float().permute(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [
        {"crop_pct": 0.0},
        {"crop_pct": 1.1},
        {"erasing_probability": 2.0},
        {"repeated_augmentation": 0},
    ],
)
def test_values_out_of_range_are_named(values):
    (name,) = values
    with pytest.raises(ValueError, match=name):
        ImageDataArguments(**values)
