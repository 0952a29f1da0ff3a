"""Folders of pictures made of the embedded images: two garments side by side, and garments that are turned."""

import csv
import json

import numpy as np
from PIL import Image

from dna_hf.data.embedded import class_names, fashion_mnist_mini


def save_pairs(folder, counts):
    """Two garments side by side, 28 pixels high and 56 wide, with the names of both in `metadata.csv`.

    Args:
        folder: gets a folder for each split, with the pictures and `metadata.csv` (file_name, labels).
        counts: split of the embedded images -> how many pictures.
    """
    names = class_names()
    for split, count in counts.items():
        images, labels = fashion_mnist_mini(split)
        random, rows = np.random.default_rng(len(split)), []
        (folder / split).mkdir(parents=True)
        for number in range(count):
            left, right = random.choice(len(images), 2, replace=False)
            Image.fromarray(np.hstack([images[left], images[right]])).save(folder / split / f"{number}.png")
            rows.append((f"{number}.png", json.dumps(sorted({names[labels[left]], names[labels[right]]}))))
        _write(folder / split, ("file_name", "labels"), rows)
    return folder


def save_turned(folder, counts, most=60.0):
    """Garments that are turned by a random angle, with the angle in radians in `metadata.csv`.

    Args:
        folder: gets a folder for each split, with the pictures and `metadata.csv` (file_name, angle).
        counts: split of the embedded images -> how many pictures.
        most: largest angle to either side, in degrees.
    """
    for split, count in counts.items():
        images, _ = fashion_mnist_mini(split)
        random, rows = np.random.default_rng(len(split)), []
        (folder / split).mkdir(parents=True)
        for number in range(count):
            angle = random.uniform(-most, most)
            picture = Image.fromarray(images[number % len(images)])
            picture.rotate(angle, Image.Resampling.BILINEAR).save(folder / split / f"{number}.png")
            rows.append((f"{number}.png", np.radians(angle)))
        _write(folder / split, ("file_name", "angle"), rows)
    return folder


def _write(folder, header, rows):
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
