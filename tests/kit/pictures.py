"""Folders of pictures made of the embedded images: two garments side by side, and garments that are turned."""

import csv
import json

import numpy as np
from PIL import Image

from dna_hf.data.embedded import class_names, fashion_mnist_mini


# garments that are told apart with few pictures
PAIRED = ("T-shirt/top", "Trouser", "Dress", "Sneaker", "Bag")


def save_pairs(folder, counts, garments=PAIRED):
    """Two garments side by side, 28 pixels high and 56 wide, with the names of both in `metadata.csv`.

    Args:
        folder: gets a folder for each split, with the pictures and `metadata.csv` (file_name, labels).
        counts: split of the embedded images -> how many pictures.
        garments: names of the classes that pictures are made of.
    """
    names = class_names()
    for split, count in counts.items():
        images, labels = of_classes(split, garments)
        random, rows = np.random.default_rng(len(split)), []
        (folder / split).mkdir(parents=True)
        for number in range(count):
            left, right = random.choice(len(images), 2, replace=False)
            Image.fromarray(np.hstack([images[left], images[right]])).save(folder / split / f"{number}.png")
            rows.append((f"{number}.png", json.dumps(sorted({names[labels[left]], names[labels[right]]}))))
        _write(folder / split, ("file_name", "labels"), rows)
    return folder


def save_turned(folder, counts, garment="Sneaker", most=60.0):
    """Garments that are turned by a random angle, with the angle in radians in `metadata.csv`.

    Args:
        folder: gets a folder for each split, with the pictures and `metadata.csv` (file_name, angle).
        counts: split of the embedded images -> how many pictures.
        garment: name of the class that is turned.
        most: largest angle to either side, in degrees.
    """
    for split, count in counts.items():
        images, _ = of_classes(split, [garment])
        random, rows = np.random.default_rng(len(split)), []
        (folder / split).mkdir(parents=True)
        for number in range(count):
            angle = random.uniform(-most, most)
            picture = Image.fromarray(images[number % len(images)])
            picture.rotate(angle, Image.Resampling.BILINEAR).save(folder / split / f"{number}.png")
            rows.append((f"{number}.png", np.radians(angle)))
        _write(folder / split, ("file_name", "angle"), rows)
    return folder


def of_classes(split, garments):
    """The embedded images of some classes, and their labels."""
    images, labels = fashion_mnist_mini(split)
    chosen = np.isin(labels, [class_names().index(name) for name in garments])
    return images[chosen], labels[chosen]


def _write(folder, header, rows):
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
