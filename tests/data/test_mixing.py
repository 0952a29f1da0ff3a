"""Mixup and CutMix against their formulas."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dna_hf.data.mixing import MixingCollator, cut_box, smooth_one_hot


def samples(count=4, first=0, classes=5):
    generator = torch.Generator().manual_seed(first)
    return [
        {"pixel_values": torch.rand(3, 8, 10, generator=generator), "labels": (first + i) % classes, "rows": first + i}
        for i in range(count)
    ]


def stacked(rows):
    return torch.stack([sample["pixel_values"] for sample in rows]), torch.tensor(
        [sample["labels"] for sample in rows]
    )


def kept_part(targets, labels, classes, smoothing):
    """The part of itself that an image keeps, from the target of an image mixed with one of another class."""
    one, other = smooth_one_hot(labels, classes, smoothing), smooth_one_hot(labels.flip(0), classes, smoothing)
    index = labels[0]
    return ((targets[0] - other[0]) / (one[0] - other[0]))[index].item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup(smoothing):
    rows = samples()
    batch = MixingCollator(5, mixup_alpha=0.8, label_smoothing=smoothing, seed=3)(rows)
    pixels, labels = stacked(rows)
    kept = kept_part(batch["labels"], labels, 5, smoothing)
    assert 0 < kept < 1
    torch.testing.assert_close(batch["pixel_values"], kept * pixels + (1 - kept) * pixels.flip(0))
    torch.testing.assert_close(batch["labels"].sum(1), torch.ones(4))


def test_cutmix():
    rows = samples()
    batch = MixingCollator(5, cutmix_alpha=1.0, seed=0)(rows)
    pixels, labels = stacked(rows)
    own = (batch["pixel_values"] == pixels).all(dim=1)
    other = (batch["pixel_values"] == pixels.flip(0)).all(dim=1)
    assert (own ^ other).all()
    kept = own[0].double().mean().item()
    assert 0 < kept < 1
    assert kept_part(batch["labels"], labels, 5, 0.0) == pytest.approx(kept, abs=1e-6)
    # what was replaced is a box
    box = other[0].nonzero()
    (top, left), (bottom, right) = box.min(0).values.tolist(), (box.max(0).values + 1).tolist()
    assert other[0].sum() == (bottom - top) * (right - left)


def test_off_means_hard_targets():
    rows = samples()
    batch = MixingCollator(5, mixup_alpha=0.8, cutmix_alpha=1.0, probability=0.0)(rows)
    pixels, labels = stacked(rows)
    assert torch.equal(batch["pixel_values"], pixels)
    assert torch.equal(batch["labels"], torch.nn.functional.one_hot(labels, 5).float())


def test_smoothed_targets():
    targets = smooth_one_hot(torch.tensor([1, 0]), 4, 0.1)
    torch.testing.assert_close(targets[0], torch.tensor([0.025, 0.925, 0.025, 0.025]))


def test_depends_on_seed_epoch_and_rows_alone():
    def pixels(seed=0, epoch=0, first=0):
        collate = MixingCollator(5, mixup_alpha=0.8, cutmix_alpha=1.0, seed=seed, clock=SimpleNamespace(epoch=epoch))
        torch.manual_seed(int(torch.randint(1000, ())))  # the global generator has no say
        rows = samples(first=first)
        return collate(rows)["labels"]

    assert torch.equal(pixels(), pixels())
    assert not torch.equal(pixels(), pixels(seed=1))
    assert not torch.equal(pixels(), pixels(epoch=1))
    assert not torch.equal(pixels(), pixels(first=5))


def test_frequencies():
    collate = MixingCollator(5, mixup_alpha=0.8, cutmix_alpha=1.0, probability=0.8, switch_probability=0.25)
    pixels = torch.rand(2, 1, 16, 16)
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(2000):
        mixed, kept = collate.mix(pixels, np.random.default_rng(seed))
        if kept == 1.0 and torch.equal(mixed, pixels):
            kinds["none"] += 1
        else:
            kinds["cutmix" if ((mixed == pixels) | (mixed == pixels.flip(0))).all() else "mixup"] += 1
    # CutMix sometimes cuts nothing, which counts as none here
    assert kinds["mixup"] / 2000 == pytest.approx(0.8 * 0.75, abs=0.04)
    assert kinds["cutmix"] / 2000 == pytest.approx(0.8 * 0.25, abs=0.05)


def test_boxes_lie_in_the_image():
    random = np.random.default_rng(0)
    for _ in range(500):
        top, bottom, left, right = cut_box(13, 7, random.random(), random)
        assert 0 <= top <= bottom <= 13 and 0 <= left <= right <= 7
