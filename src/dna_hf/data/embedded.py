"""The data that comes with the package: a part of Fashion-MNIST (MIT, Zalando SE)."""

from functools import cache
from pathlib import Path

import numpy as np


LICENCE = "MIT"
HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
SPLITS = ("train", "test")


@cache
def _arrays() -> dict[str, np.ndarray]:
    path = Path(__file__).with_name("fashion_mnist_mini") / "fashion_mnist_mini.npz"
    with np.load(path) as arrays:
        return dict(arrays)


def fashion_mnist_mini(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a split: 2,000 to train on, 500 to test on.

    Args:
        split: `"train"` or `"test"`.

    Returns:
        Grey images (images, 28, 28), uint8, and their labels (images), 0 to 9.
    """
    arrays = _arrays()
    return arrays[f"x_{split}"], arrays[f"y_{split}"]


def class_names() -> list[str]:
    """Names of the 10 classes, which the labels index."""
    return _arrays()["names"].tolist()
