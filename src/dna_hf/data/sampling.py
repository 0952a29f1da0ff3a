"""Which epoch it is, which images it reads, and how often."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler


class EpochClock:
    """Knows the current epoch, in shared memory, so that persistent loader workers see it change."""

    def __init__(self) -> None:
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch that random numbers are drawn for."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch random numbers are drawn for."""
        self._epoch.fill_(epoch)


class RepeatedSampler(Sampler):
    """Repeated augmentation: images in random order, each several times in a row, until an epoch is full.

    An epoch keeps its length and so sees one image in `repeats`. Source: arXiv:1901.09335; the order is a permutation
    of all images that depends on the seed and the epoch alone, as in the released script.

    Args:
        dataset: data set, whose length and current `epoch` are used.
        repeats: number of times that an image comes in a row.
        seed: seed of the order of the images, with the epoch.
    """

    def __init__(self, dataset: Any, repeats: int, seed: int) -> None:
        self.dataset = dataset
        self.repeats = repeats
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Pairs (row, copy)."""
        rows = np.random.default_rng((self.seed, self.dataset.epoch)).permutation(len(self)).tolist()
        for position in range(len(self)):
            yield rows[position // self.repeats], position % self.repeats
