"""Pictures with distractors against a composition of their own, and accuracies of models whose behaviour is known."""

import csv
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers.data.data_collator import default_data_collator
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnAViTForImageClassification
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.images import image_processor
from dna_hf.data.sources import load_split
from dna_hf.evaluation import distractors
from dna_hf.evaluation.distractors import (
    DistractorAccuracy,
    DistractorPictures,
    PictureGrid,
    checkpoint_labels,
    distractor_test,
    draw,
    example,
    summary,
)
from dna_hf.evaluation.intervals import wilson_interval
from dna_hf.kinds import IMAGE, Loaded
from tests.kit.classifier import save_classifier


MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(scope="module")
def images():
    """The embedded test images."""
    return load_split(ImageDataArguments(), "test")


def processor(height=28, width=28):
    """An image processor with another mean for every channel, none of them a colour of 8 bits."""
    return ViTImageProcessorPil(size={"height": height, "width": width}, image_mean=MEAN, image_std=STD)


def pictures(images, grid=3, tiles=None, position="random", seed=0, size=(28, 28)):
    tiles = grid**2 - 1 if tiles is None else tiles
    return DistractorPictures(images, processor(*size), PictureGrid(grid, tiles, position, seed))


def composed(images, tiles, grid, size):
    """A picture of some tiles, normalised, (channels, height, width): numpy and PIL alone."""
    height, width = size
    normal = np.zeros((height, width, 3))
    decoded = images.rows.cast_column("image", datasets.Image())
    for tile in tiles:
        down, right = tile.cell // grid, tile.cell % grid
        # cells begin at the whole pixel before their share of the picture
        top, bottom = int(height * down / grid), int(height * (down + 1) / grid)
        left, end = int(width * right / grid), int(width * (right + 1) / grid)
        picture = decoded[tile.row]["image"].convert("RGB").resize((end - left, bottom - top), Image.BILINEAR)
        normal[top:bottom, left:end] = (np.asarray(picture) / 255 - MEAN) / STD
    return normal.transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(28, 28), (32, 21)], ids=["square", "wide cells and rests"])
@pytest.mark.parametrize(("grid", "position"), [(2, "random"), (3, "center"), (5, "random")])
def test_pictures_pixel_by_pixel(images, grid, position, size):
    set_of_pictures = pictures(images, grid, position=position, size=size)
    count = grid**2
    assert len(set_of_pictures) == 500 * count
    for row in (0, 123, 499):
        tiles = set_of_pictures.tiles(row)
        samples = set_of_pictures.__getitems__(list(range(row * count, (row + 1) * count)))
        for number, sample in enumerate(samples):
            expected = composed(images, tiles[: number + 1], grid, size)
            np.testing.assert_allclose(sample["pixel_values"].numpy(), expected, atol=1e-6)
            assert sample["labels"] == images.rows[row]["label"]


def test_what_stands_where(images):
    labels = images.rows["label"][:]
    set_of_pictures = pictures(images, 3)
    for row in range(500):
        tiles = set_of_pictures.tiles(row)
        assert tiles[0].row == row
        assert all(labels[tile.row] != labels[row] for tile in tiles[1:])
        assert sorted(tile.cell for tile in tiles) == list(range(9))
        assert len({tile.row for tile in tiles}) == 9


def test_positions_and_distractors_are_drawn_evenly(images):
    set_of_pictures = pictures(images, 2, tiles=1)
    drawn = [set_of_pictures.tiles(row) for row in range(500)]
    labels = images.rows["label"][:]
    for counts, expected in (
        (np.bincount([tiles[0].cell for tiles in drawn], minlength=4), 125),
        (np.bincount([labels[tiles[1].row] for tiles in drawn], minlength=10), 50),
        # the class after that of the target, and the one after that, ...
        (np.bincount([(labels[tiles[1].row] - labels[tiles[0].row]) % 10 for tiles in drawn])[1:], 500 / 9),
    ):
        # beyond 1 in 1000 for 3, 9 and 8 degrees of freedom
        assert ((counts - expected) ** 2 / expected).sum() < 26
    centred = pictures(images, 5, position="center")
    assert {centred.tiles(row)[0].cell for row in range(50)} == {12}


def test_pictures_are_nested_on_exact_zeros(images):
    for row in (3, 77):
        stacks = pictures(images, 3, size=(30, 29)).pixel_values(row)
        tiles, box = pictures(images, 3, size=(30, 29)).tiles(row), pictures(images, 3, size=(30, 29)).box
        left, top, right, bottom = box(tiles[0].cell)
        for number, picture in enumerate(stacks):
            # the target is the same in all, bit for bit
            assert torch.equal(picture[:, top:bottom, left:right], stacks[-1][:, top:bottom, left:right])
            filled = torch.zeros(30, 29, dtype=torch.bool)
            for tile in tiles[: number + 1]:
                a, b, c, d = box(tile.cell)
                filled[b:d, a:c] = True
            assert not picture[:, ~filled].any()
            assert torch.equal(picture[:, filled], stacks[-1][:, filled])
        assert filled.all()


def test_the_composition_depends_on_nothing_else(images):
    full = pictures(images, 3)
    assert full.tiles(7) == pictures(images, 3).tiles(7)
    # neither on the number of tiles nor on the size of the pictures
    assert pictures(images, 3, tiles=4, size=(60, 60)).tiles(7) == full.tiles(7)[:5]
    assert torch.equal(pictures(images, 3, tiles=4).pixel_values(7), full.pixel_values(7)[:5])
    for other in (pictures(images, 3, seed=1).tiles(7), full.tiles(8)):
        assert [tile.row for tile in other[1:]] != [tile.row for tile in full.tiles(7)[1:]]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_nothing(images, batch_size):
    part = torch.utils.data.Subset(pictures(images, 2), range(100))
    batches = list(DataLoader(part, batch_size=batch_size, collate_fn=default_data_collator))
    together = torch.cat([batch["pixel_values"] for batch in batches])
    expected = torch.cat([pictures(images, 2).pixel_values(row) for row in range(25)])
    assert torch.equal(together, expected)
    assert (
        torch.cat([batch["labels"] for batch in batches]).tolist() == np.repeat(images.rows[:25]["label"], 4).tolist()
    )


def test_a_processor_that_crops_does_not_crop_the_grid(images):
    cropping = ViTImageProcessorPil(
        size={"shortest_edge": 40},
        do_center_crop=True,
        crop_size={"height": 28, "width": 28},
        image_mean=MEAN,
        image_std=STD,
    )
    layout = PictureGrid(2, 3)
    cropped = DistractorPictures(images, cropping, layout).pixel_values(5)
    assert torch.equal(cropped, DistractorPictures(images, processor(), layout).pixel_values(5))


class Reader(torch.nn.Module):
    """A classifier of pure colours, in the order red, green, blue, that looks at what `look` takes of a picture."""

    def __init__(self, look):
        super().__init__()
        self.look, self.seen = look, []
        self.config = SimpleNamespace(problem_type="single_label_classification", id2label=dict(enumerate(COLOURS)))
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def forward(self, pixel_values):
        self.seen.append(pixel_values)
        return SimpleNamespace(logits=self.look(pixel_values))


@pytest.fixture
def colours(tmp_path):
    """Pictures of one colour each, 8 red, 7 green and 6 blue ones; the data has its classes in alphabetical order."""
    for count, (name, colour) in zip((8, 7, 6), COLOURS.items(), strict=True):
        folder = tmp_path / "colours" / "test" / name
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (10, 12), colour).save(folder / f"{number}.png")
    return ImageDataArguments(dataset=str(tmp_path / "colours"))


@pytest.fixture
def reader(monkeypatch):
    """Make every checkpoint a [`Reader`] of pictures of 9x9 pixels."""

    def make(look):
        model = Reader(look)
        monkeypatch.setattr(
            distractors,
            "load",
            lambda checkpoint, **_: Loaded(checkpoint, model, image_processor(ImageDataArguments(), (9, 9)), IMAGE),
        )
        return model

    return make


def test_a_model_that_looks_at_the_target_alone_is_always_right(reader, colours, tmp_path):
    reader(lambda pixels: pixels[:, :, 4, 4])
    figures = distractor_test(
        ["oracle"], colours, "test", tmp_path / "out", grid=3, target_position="center", device="cpu"
    )
    low, high = wilson_interval(21, 21)
    assert figures == [DistractorAccuracy("oracle", number, 21, 1.0, low, high) for number in range(9)]


def test_a_model_that_looks_beside_the_target_is_wrong_among_all_distractors(reader, colours, tmp_path):
    reader(lambda pixels: pixels[:, :, 0, 0])
    figures = distractor_test(
        ["corner"], colours, "test", tmp_path / "out", grid=3, target_position="center", device="cpu"
    )
    # on the background all logits are zero: the first class, red
    assert figures[0].top1 == 8 / 21
    assert figures[8].top1 == 0
    assert all(one.top1 >= other.top1 for one, other in zip(figures, figures[1:], strict=False))


@pytest.mark.parametrize("batch_size", [5, 64])
def test_a_model_that_counts_pixels(reader, colours, tmp_path, batch_size):
    reader(lambda pixels: pixels.sum(dim=(2, 3)))
    figures = distractor_test(
        ["counter"], colours, "test", tmp_path / "out", grid=3, batch_size=batch_size, device="cpu"
    )
    images = load_split(colours, "test")
    names = [images.class_names[label] for label in images.rows["label"][:]]
    set_of_pictures = DistractorPictures(images, image_processor(ImageDataArguments(), (9, 9)), PictureGrid(3, 8))
    for figure in figures:
        hits = 0
        for row, name in enumerate(names):
            present = [names[tile.row] for tile in set_of_pictures.tiles(row)[: figure.distractors + 1]]
            # among equal counts the first colour
            hits += max(COLOURS, key=present.count) == name
        assert figure.top1 == hits / 21
        assert (figure.low, figure.high) == wilson_interval(hits, 21)
    assert figures[0].top1 == 1 and figures[8].top1 < 0.5


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Two untrained classifiers of the embedded classes, in different orders."""
    folder = tmp_path_factory.mktemp("checkpoints")
    names = load_split(ImageDataArguments(), "test").class_names
    save_classifier(folder / "a", names)
    save_classifier(folder / "b", names[::-1], seed=1)
    return [str(folder / "a"), str(folder / "b")]


def test_checkpoints_against_models_that_are_run_here(checkpoints, images, tmp_path):
    figures = distractor_test(checkpoints, ImageDataArguments(), "test", tmp_path, max_tiles=2, seed=3, device="cpu")
    assert [(each.checkpoint, each.distractors) for each in figures] == [(name, k) for name in "ab" for k in range(3)]
    layout = PictureGrid(2, 2, seed=3)
    set_of_pictures = DistractorPictures(images, image_processor(ImageDataArguments(), (28, 28)), layout)
    stacks = torch.stack([set_of_pictures.pixel_values(row) for row in range(500)])
    truth = [images.class_names[label] for label in images.rows["label"][:]]
    for checkpoint, own in zip(checkpoints, (figures[:3], figures[3:]), strict=True):
        model = DnAViTForImageClassification.from_pretrained(checkpoint).eval()
        for number, figure in enumerate(own):
            with torch.no_grad():
                predicted = model(stacks[:, number]).logits.argmax(dim=1).tolist()
            hits = sum(model.config.id2label[index] == name for index, name in zip(predicted, truth, strict=True))
            # of 500 one may tip over by the order in which floats are added
            assert abs(figure.top1 * 500 - hits) <= 1
            assert figure.images == 500 and figure.low < figure.top1 < figure.high
    assert len({each.top1 for each in figures}) > 1
    with (tmp_path / "distractors.csv").open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [(row["checkpoint"], int(row["distractors"]), float(row["top1"])) for row in written] == [
        (each.checkpoint, each.distractors, each.top1) for each in figures
    ]
    text = (tmp_path / "distractors.md").read_text()
    assert text.startswith(summary(figures)) and "grid of 2 x 2" in text and "seed 3" in text


def test_the_same_again(checkpoints, tmp_path):
    runs = [
        distractor_test(checkpoints[:1], ImageDataArguments(), "test", tmp_path, max_tiles=1, device="cpu")
        for _ in range(2)
    ]
    assert runs[0] == runs[1]


def test_all_checkpoints_see_the_same_pictures(reader, colours, tmp_path):
    model = reader(lambda pixels: pixels.sum(dim=(2, 3)))
    distractor_test(["a", "b"], colours, "test", tmp_path, device="cpu", batch_size=84)
    first, second = model.seen
    assert first.shape == (84, 3, 9, 9) and torch.equal(first, second)


def test_the_example(images):
    set_of_pictures = pictures(images, 2)
    strip = np.asarray(example(set_of_pictures, 4))
    # four pictures of 28 pixels, enlarged four times, with gaps of four pixels
    assert strip.shape == (112, 4 * 112 + 3 * 4, 3)
    for number in range(4):
        picture = strip[::4, number * 116 : number * 116 + 112 : 4]
        expected = composed(images, set_of_pictures.tiles(4)[: number + 1], 2, (28, 28)).transpose(1, 2, 0)
        np.testing.assert_allclose(picture, 255 * (expected * STD + MEAN), atol=0.51)
    assert (strip[:, 112:116] == 255).all()


def test_the_figure(tmp_path):
    pytest.importorskip("matplotlib")
    figures = [DistractorAccuracy(name, k, 100, 0.5, 0.4, 0.6) for name in ("a", "b") for k in range(4)]
    draw(figures, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert min(picture.size) > 400 and len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_the_table():
    figures = [
        DistractorAccuracy(name, k, 8, top1, 0.1, 0.95) for name, top1 in (("a", 0.5), ("b/c", 0.25)) for k in (0, 1)
    ]
    assert summary(figures).splitlines() == [
        "| distractors | a | b/c |",
        "| ---: | ---: | ---: |",
        "| 0 | 50.00 % (10.0 to 95.0) | 25.00 % (10.0 to 95.0) |",
        "| 1 | 50.00 % (10.0 to 95.0) | 25.00 % (10.0 to 95.0) |",
    ]


def test_labels_of_checkpoints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checkpoint_labels(["runs/a", "runs/b/", "user/name"]) == ["a", "b", "name"]
    assert checkpoint_labels(["x/a/seed0", "x/b/seed0", "c"]) == ["a/seed0", "b/seed0", "c"]
    assert checkpoint_labels(["x/1/run", "y/1/run", "y/2/run"]) == ["x/1/run", "y/1/run", "2/run"]
    assert checkpoint_labels(["."]) == [tmp_path.name]
    for twice in (["a", "a"], ["a", "b", "a/"], [str(tmp_path / "a"), "./a"]):
        with pytest.raises(DataError, match="'a.*' is given twice|/a' is given twice"):
            checkpoint_labels(twice)


WRONG = {
    "grid": ({"grid": 1}, "grid must be at least 2, got 1"),
    "no centre": ({"grid": 2, "target_position": "center"}, "choose an odd grid"),
    "position": ({"target_position": "middle"}, "choose random or center"),
    "many tiles": ({"max_tiles": 4}, "max-tiles must be from 1 to 3"),
    "no tiles": ({"max_tiles": 0}, "max-tiles must be from 1 to 3"),
    "seed": ({"seed": -1}, "seed must not be negative"),
    "fine grid": ({"grid": 29}, "a grid of 29 leaves nothing of 28x28 pixels"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_pictures_is_refused_before_a_model_runs(checkpoints, tmp_path, monkeypatch, name):
    options, message = WRONG[name]
    monkeypatch.setattr(distractors, "logits_by_batch", lambda *_: pytest.fail("a model ran"))
    with pytest.raises(DataError, match=message):
        distractor_test(checkpoints, ImageDataArguments(), "test", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_other_mistakes_before_a_model_runs(checkpoints, tmp_path, monkeypatch):
    monkeypatch.setattr(distractors, "logits_by_batch", lambda *_: pytest.fail("a model ran"))
    first = checkpoints[0]

    def refused(message, given=(first,), arguments=None, output=tmp_path / "out"):
        with pytest.raises(DataError, match=message):
            distractor_test(given, arguments or ImageDataArguments(), "test", output)

    refused("is given twice", given=(first, first + "/"))
    refused("checkpoint 'missing' is not there", given=(first, "missing"))
    refused("leave out --streaming", arguments=ImageDataArguments(streaming=True))
    refused("does not know 10 of the 10", arguments=ImageDataArguments(class_names=[f"{n}" for n in range(10)]))
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        refused("cannot be written: ", output=folder)
    assert not (tmp_path / "out").exists()


def test_data_of_one_class_or_too_few_others(reader, colours, tmp_path):
    reader(lambda pixels: pytest.fail("a model ran"))
    images = load_split(colours, "test")
    one = images.rows.filter(lambda label: label == 1, input_columns="label")
    few = images.rows.select([*range(7), 20])
    for rows, message in ((one, "images of one class only"), (few, "has 2 images of other classes than 'blue'")):
        rows.to_parquet(tmp_path / "part.parquet")
        arguments = ImageDataArguments(dataset=str(tmp_path / "part.parquet"))
        with pytest.raises(DataError, match=message):
            distractor_test(["a"], arguments, "train", tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_is_named(reader, colours, tmp_path):
    reader(lambda pixels: pixels.sum(dim=(2, 3)))
    (tmp_path / "colours" / "test" / "blue" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot read image"):
        distractor_test(["a"], colours, "test", tmp_path / "out")
