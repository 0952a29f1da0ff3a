"""The distractor test: how much accuracy is left when images of other classes stand around the one that counts.

A picture of the model's size is divided in grid x grid cells. One holds the target, `k` others hold images of other
classes, and the rest is what the image processor makes zero. The pictures of one target are nested: only what is
added differs between `k` and `k + 1`, so that accuracies can be compared, over `k` and between checkpoints.
"""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel
from transformers.data.data_collator import default_data_collator

from ..data.arguments import ImageDataArguments
from ..data.errors import DataError
from ..data.image_reading import image_mode, read_image
from ..data.images import ImageProcessor, channels_of, output_size
from ..data.labelled_images import LabelledImages
from ..data.problem_types import SINGLE_LABEL
from ..data.sources import load_split
from ..data.summary import Announce, summarize
from ..errors import must_be_writable
from ..kinds import IMAGE, inference_device, load, problem_type_of
from ..records.names import checkpoint_labels
from ..records.run_facts import model_facts
from ..records.stamp import command_line
from .held_out import as_trained
from .image_classification import class_names, logits_by_batch, match_classes
from .intervals import wilson_interval


POSITIONS = ("random", "center")
FIGURES_FILE = "distractors.csv"
SUMMARY_FILE = "distractors.md"
FIGURE_FILE = "distractors.png"
EXAMPLE_FILE = "distractors_example.png"
EXAMPLE_HEIGHT = 112


@dataclass(frozen=True)
class DistractorAccuracy:
    """Accuracy of one checkpoint among a number of distractors.

    Args:
        checkpoint: label of the checkpoint.
        distractors: number of images of other classes in every picture.
        images: number of pictures, one for each image of the split.
        top1: part of the pictures that were given the class of the target, in [0, 1].
        low: lower end of the 95 % interval of `top1`.
        high: upper end of the 95 % interval of `top1`.
    """

    checkpoint: str
    distractors: int
    images: int
    top1: float
    low: float
    high: float


@dataclass(frozen=True)
class PictureGrid:
    """How all pictures are divided.

    Args:
        grid: cells along each side, at least 2.
        tiles: largest number of distractors.
        position: where the target stands: `"random"`, drawn for each image, or `"center"`.
        seed: seed of what is drawn.

    Raises:
        DataError: if there is no such layout.
    """

    grid: int = 2
    tiles: int = 3
    position: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.grid < 2:
            raise DataError(f"grid must be at least 2, got {self.grid}: in one cell there is no distractor.")
        if self.position not in POSITIONS:
            raise DataError(f"unknown target position {self.position!r}: choose {' or '.join(POSITIONS)}.")
        if self.position == "center" and self.grid % 2 == 0:
            raise DataError(
                f"a grid of {self.grid} has no central cell: choose an odd grid, or --target-position random."
            )
        if not 1 <= self.tiles < self.grid**2:
            raise DataError(
                f"max-tiles must be from 1 to {self.grid**2 - 1} in a grid of {self.grid}, got {self.tiles}."
            )
        if self.seed < 0:
            raise DataError(f"seed must not be negative, got {self.seed}.")


@dataclass(frozen=True)
class Tile:
    """An image in a picture: the number of its cell, row by row, and of its row in the split."""

    cell: int
    row: int


class DistractorPictures(Dataset):
    """The pictures of a split: for each of its rows one with 0, 1, ... `layout.tiles` distractors, in this order.

    What stands where depends on the layout's seed, grid and position, and on the row. Samples are
    `{"pixel_values": (channels, height, width), "labels": class of the target}`.

    Args:
        images: split of images that is not streamed.
        processor: image processor of the model that will see the pictures; it gives their size and normalises them.
        layout: how the pictures are divided.

    Raises:
        DataError: if the split has not enough images of other classes, or the cells would be empty.
    """

    def __init__(self, images: LabelledImages, processor: ImageProcessor, layout: PictureGrid) -> None:
        self.images = images
        self.processor: Any = processor
        self.layout = layout
        self.size = output_size(processor)
        if layout.grid > min(self.size):
            raise DataError(
                f"a grid of {layout.grid} leaves nothing of {self.size[0]}x{self.size[1]} pixels: make it smaller."
            )
        self.labels = np.asarray(images.rows[images.label_column][:])
        # rows sorted by class, and where each class begins: so that one draw gives a row of another class
        self._sorted = np.argsort(self.labels, kind="stable")
        self._starts = np.searchsorted(self.labels[self._sorted], np.arange(len(images.class_names) + 1))
        self._check_others()

    def __len__(self) -> int:
        return len(self.labels) * (self.layout.tiles + 1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        count = self.layout.tiles + 1
        pictures = {row: self.pixel_values(row) for row in dict.fromkeys(index // count for index in indices)}
        return [
            {"pixel_values": pictures[index // count][index % count], "labels": int(self.labels[index // count])}
            for index in indices
        ]

    def tiles(self, row: int) -> list[Tile]:
        """What stands in the pictures of a row: the target, and the distractors in the order in which they come."""
        random = np.random.default_rng((self.layout.seed, row))
        cells = random.permutation(self.layout.grid**2).tolist()
        if self.layout.position == "center":
            centre = self.layout.grid**2 // 2
            cells.remove(centre)
            cells.insert(0, centre)
        rows = [row]
        # one after the other: so those of fewer distractors are the first of those of more
        while len(rows) <= self.layout.tiles:
            other = self._other_class(row, random)
            if other not in rows:
                rows.append(other)
        return [Tile(cell, number) for cell, number in zip(cells, rows, strict=False)]

    def box(self, cell: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of a cell, in pixels. The cells meet, and differ by a pixel at most."""
        (height, width), grid = self.size, self.layout.grid
        down, right = divmod(cell, grid)
        return (
            width * right // grid,
            height * down // grid,
            width * (right + 1) // grid,
            height * (down + 1) // grid,
        )

    def full_picture(self, row: int) -> Image.Image:
        """The picture of a row with all distractors; every image is resized to its cell."""
        tiles = self.tiles(row)
        sources = self.images.rows[[tile.row for tile in tiles]][self.images.image_column]
        mode = image_mode(channels_of(self.processor))
        picture = Image.new(mode, self.size[::-1])
        for tile, source in zip(tiles, sources, strict=True):
            image = read_image(source, f"in row {tile.row} of split {self.images.name!r}", mode)
            left, top, right, bottom = self.box(tile.cell)
            resample = Image.Resampling(self.processor.resample)
            picture.paste(image.resize((right - left, bottom - top), resample), (left, top))
        return picture

    def pixel_values(self, row: int) -> torch.Tensor:
        """Normalised pictures (tiles + 1, channels, height, width) of a row with 0, 1, ... distractors."""
        options = {"do_resize": False, "do_center_crop": False}
        full = self.processor([self.full_picture(row)], return_tensors="pt", **options)["pixel_values"][0]
        # the background is exactly zero, which no colour of 8 bits need be; normalising goes pixel by pixel
        pictures = torch.zeros(self.layout.tiles + 1, *full.shape, dtype=full.dtype)
        for number, tile in enumerate(self.tiles(row)):
            left, top, right, bottom = self.box(tile.cell)
            pictures[number:, :, top:bottom, left:right] = full[:, top:bottom, left:right]
        return pictures

    def _other_class(self, row: int, random: np.random.Generator) -> int:
        """Draw a row of another class."""
        label = self.labels[row]
        start, end = self._starts[label], self._starts[label + 1]
        position = int(random.integers(len(self.labels) - (end - start)))
        return int(self._sorted[position if position < start else position + (end - start)])

    def _check_others(self) -> None:
        counts = np.bincount(self.labels, minlength=len(self.images.class_names))
        if np.count_nonzero(counts) < 2:
            raise DataError(
                f"split {self.images.name!r} has images of one class only: distractors are of another one."
            )
        largest = int(counts.argmax())
        others = len(self.labels) - int(counts[largest])
        if others < self.layout.tiles:
            raise DataError(
                f"split {self.images.name!r} has {others} images of other classes than "
                f"{self.images.class_names[largest]!r}, fewer than {self.layout.tiles} distractors: lower --max-tiles."
            )


def distractor_test(
    checkpoints: Sequence[str],
    arguments: ImageDataArguments,
    split: str,
    output_dir: str | Path,
    *,
    grid: int = 2,
    max_tiles: int | None = None,
    target_position: str = "random",
    seed: int = 0,
    held_out_seed: int | None = None,
    batch_size: int = 64,
    device: str | None = None,
    announce: Announce | None = None,
) -> list[DistractorAccuracy]:
    """Measure the accuracy of checkpoints among 0, 1, ... distractors; labels are matched to classes by name.

    All checkpoints see the same pictures, as far as their image processors agree in size, resampling and mean.

    Args:
        checkpoints: folders, or names on the Hub.
        arguments: section `data`, which says which images are read.
        split: name of the split that gives targets and distractors; `held-out`: what training held out, see
            [`~dna_hf.evaluation.held_out.as_trained`].
        output_dir: folder that gets the figures, a table of them and an example.
        grid: cells along each side of a picture.
        max_tiles: largest number of distractors, by default all cells but one.
        target_position: `"random"` or `"center"`, which needs an odd grid.
        seed: seed of positions and distractors.
        held_out_seed: seed of the training that held a part out, where a checkpoint has no record of it.
        batch_size: pictures that go through a model together.
        device: device to run on, e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        announce: called before any model runs, with what the split holds and with facts about the models.

    Returns:
        The figures, checkpoint by checkpoint, by number of distractors.

    Raises:
        DataError: before any model runs, if the pictures cannot be made so, data or a checkpoint cannot be loaded,
            a model does not know a class or gives other than one, two checkpoints are the same or the folder cannot be
            written to.
    """
    layout = PictureGrid(grid, grid**2 - 1 if max_tiles is None else max_tiles, target_position, seed)
    if arguments.streaming:
        raise DataError("the distractor test needs random access to the data: leave out --streaming.")
    output_dir = must_be_writable(output_dir, DataError)
    target = inference_device(device)
    labels = checkpoint_labels(checkpoints)
    arguments, held_out_seed = as_trained(checkpoints, arguments, split, held_out_seed)
    images = load_split(arguments, split, held_out_seed)
    runs: list[tuple[Any, DistractorPictures, np.ndarray]] = []
    for checkpoint in checkpoints:
        # all of them before one runs; on the CPU, for a GPU may not hold them together
        loaded = load(checkpoint, wanted=(IMAGE,), device="cpu")
        problem_type = problem_type_of(loaded.model.config)
        if problem_type != SINGLE_LABEL:
            raise DataError(f"distractors are for one class per image, but {checkpoint!r} is of {problem_type}.")
        classes = match_classes(images.class_names, class_names(loaded.model))
        runs.append((loaded.model, DistractorPictures(images, loaded.processor, layout), classes))
    if announce is not None:
        facts = [
            (f"{label}: {name}", value)
            for label, run in zip(labels, runs, strict=True)
            for name, value in model_facts(run[0])
            if name != "device"
        ]
        announce(summarize(arguments, [images]), [*facts, ("device", str(target))])
    output_dir.mkdir(parents=True, exist_ok=True)
    example(runs[0][1], row=0).save(output_dir / EXAMPLE_FILE)
    figures = []
    for label, (model, pictures, classes) in zip(labels, runs, strict=True):
        figures += _accuracies(label, model.to(target), pictures, classes, batch_size)
        model.to("cpu")
    _write_figures(output_dir / FIGURES_FILE, figures)
    text = f"{summary(figures)}\n\n{_conditions(figures, arguments, split, layout)}\n"
    (output_dir / SUMMARY_FILE).write_text(text, encoding="utf-8")
    return figures


def summary_rows(figures: Sequence[DistractorAccuracy]) -> tuple[list[str], list[tuple[str, ...]]]:
    """Header and rows of a table: a row per number of distractors, a column per checkpoint."""
    header = ["distractors", *dict.fromkeys(each.checkpoint for each in figures)]
    rows: dict[int, list[str]] = {}
    for each in figures:
        interval = f"{100 * each.low:.1f} to {100 * each.high:.1f}"
        rows.setdefault(each.distractors, []).append(f"{100 * each.top1:.2f} % ({interval})")
    return header, [(str(distractors), *cells) for distractors, cells in rows.items()]


def summary(figures: Sequence[DistractorAccuracy]) -> str:
    """A Markdown table of top-1 accuracies with their 95 % intervals."""
    header, rows = summary_rows(figures)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---:"] * len(header), *rows))


def draw(figures: Sequence[DistractorAccuracy], path: Path) -> None:
    """Draw accuracy against the number of distractors, with 95 % intervals, one line per checkpoint.

    Raises:
        ImportError: without matplotlib.
    """
    from matplotlib.figure import Figure

    checkpoints = list(dict.fromkeys(each.checkpoint for each in figures))
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    # side by side, so that no interval hides another
    step = min(0.12, 0.6 / len(checkpoints))
    for number, checkpoint in enumerate(checkpoints):
        own = [each for each in figures if each.checkpoint == checkpoint]
        positions = [each.distractors + step * (number - (len(checkpoints) - 1) / 2) for each in own]
        top1 = np.array([100 * each.top1 for each in own])
        ends = np.array([[100 * each.low for each in own], [100 * each.high for each in own]])
        marker = "osD^v"[number % 5]
        axes.errorbar(
            positions, top1, yerr=abs(ends - top1), label=checkpoint, marker=marker, markersize=4, capsize=2, lw=1.2
        )
    axes.set_xticks(sorted({each.distractors for each in figures}))
    axes.set_xlabel("distractors")
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(f"{figures[0].images:,} targets, 95 % intervals", fontsize="medium")
    axes.grid(axis="y", color="0.9")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def example(pictures: DistractorPictures, row: int) -> Image.Image:
    """The pictures of a row side by side, from no distractor to all; small ones enlarged."""
    full, gap = pictures.full_picture(row), 4
    scale = max(1, EXAMPLE_HEIGHT // full.height)
    width, height = full.width * scale, full.height * scale
    tiles = pictures.tiles(row)
    strip = Image.new("RGB", ((width + gap) * len(tiles) - gap, height), "white")
    picture = Image.new(full.mode, full.size, _zero_colour(pictures.processor))
    for number, tile in enumerate(tiles):
        box = pictures.box(tile.cell)
        picture.paste(full.crop(box), box)
        strip.paste(picture.resize((width, height), Image.Resampling.NEAREST), ((width + gap) * number, 0))
    return strip


def _zero_colour(processor: Any) -> tuple[int, ...]:
    """The colour of 8 bits that is nearest to zero after normalising."""
    mean = processor.image_mean if processor.do_normalize else [0.0] * channels_of(processor)
    factor = processor.rescale_factor if processor.do_rescale else 1.0
    return tuple(round(value / factor) for value in mean)


def _accuracies(
    label: str, model: PreTrainedModel, pictures: DistractorPictures, classes: np.ndarray, batch_size: int
) -> list[DistractorAccuracy]:
    """Run one model; `classes` are its indices of the classes of the data."""
    loader = DataLoader(pictures, batch_size=batch_size, collate_fn=default_data_collator)
    # logits are not kept: there are several pictures for each image
    hits = [logits.argmax(axis=1) == classes[labels] for logits, labels in logits_by_batch(model, loader)]
    correct = np.concatenate(hits).reshape(len(pictures.labels), -1).sum(axis=0).tolist()
    images = len(pictures.labels)
    return [
        DistractorAccuracy(label, distractors, images, count / images, *wilson_interval(count, images))
        for distractors, count in enumerate(correct)
    ]


def _conditions(
    figures: Sequence[DistractorAccuracy], arguments: ImageDataArguments, split: str, layout: PictureGrid
) -> str:
    """How the figures were measured."""
    return (
        f"Top-1 accuracy with its 95 % interval (Wilson), {figures[0].images:,} targets of {arguments.dataset} "
        f"({split}) in a grid of {layout.grid} x {layout.grid} cells, position {layout.position}, seed {layout.seed}: "
        f"`{command_line()}`"
    )


def _write_figures(path: Path, figures: Sequence[DistractorAccuracy]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(DistractorAccuracy)])
        writer.writeheader()
        writer.writerows(asdict(each) for each in figures)
