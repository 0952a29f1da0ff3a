"""The summary of a data set, against counts made by walking its files."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dna_hf.data import inspection
from dna_hf.data.arguments import ImageDataArguments, VideoDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.files import EMPTY, LeftOut
from dna_hf.data.image_reading import read_image_file
from dna_hf.data.inspection import content_digest
from dna_hf.data.provenance import provenance
from dna_hf.data.sources import load_all, load_train_and_eval
from dna_hf.data.summary import DataSummary, SplitSummary, summarize, write_summary
from dna_hf.data.video_sources import load_train_and_eval as load_videos
from dna_hf.training.classification import train_classifier
from tests.kit.paths import ROOT
from tests.kit.training import tiny_run


RANDOM = np.random.default_rng(0)


def picture(width=12, height=10, mode="RGB"):
    return Image.fromarray(RANDOM.integers(0, 255, (height, width, 3), dtype=np.uint8)).convert(mode)


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture
def flowers(tmp_path):
    """A folder of images with everything that a summary names."""
    folder = tmp_path / "flowers"
    for split, name, count in (
        *(("train", "rose", 7), ("train", "tulip", 3), ("train", "daisy", 1)),
        *(("test", "rose", 2), ("test", "tulip", 2), ("test", "daisy", 1)),
    ):
        for number in range(count):
            save(picture(mode="L" if number == 1 else "RGB"), folder / split / name / f"{number}.png")
    save(picture(30, 20), folder / "train" / "rose" / "large.png")
    return folder


def summary_of(folder, **options):
    arguments = ImageDataArguments(dataset=str(folder))
    return summarize(arguments, load_train_and_eval(arguments, seed=0), **options)


def walked(folder):
    """(split, class) -> files."""
    return Counter((path.parts[-3], path.parts[-2]) for path in folder.rglob("*.png"))


def test_counts_are_those_of_the_files(flowers):
    found = summary_of(flowers)
    assert {(s.name, name): n for s in found.splits for name, n in s.classes.items()} == walked(flowers)
    sizes, modes = Counter(), Counter()
    for path in flowers.rglob("*.png"):
        with Image.open(path) as image:
            sizes[image.size] += 1
            modes[image.mode] += 1
    assert (found.inspection.sizes, found.inspection.modes) == (sizes, modes)
    assert found.inspection.is_whole and found.inspection.total == sum(walked(flowers).values())
    rows = dict(found.rows())
    assert rows["train"] == "12 images, 3 classes, 1 to 8 each" and rows["test"] == "5 images, 3 classes, 1 to 2 each"
    assert rows["largest / smallest class"] == "8.0, from 'daisy' to 'rose' in train"
    assert rows["sizes"] == "12x10 (16), 30x20 (1) pixels" and rows["from"] == "a folder"
    assert rows["modes"] == f"RGB ({modes['RGB']}), L ({modes['L']})" and rows["looked at"] == "all 17 images"
    assert (rows["duplicates across splits"], rows["left out"]) == ("none", "nothing")
    assert found.class_rows()[1] == [("daisy", "1", "1"), ("rose", "8", "2"), ("tulip", "3", "2")]
    (one,) = [sentence for sentence in found.findings() if "'train'" in sentence]
    assert one == "one class has a single image in 'train': daisy."


def test_duplicates_are_of_pixels_not_of_files(flowers):
    """Copied, written anew in another format, and in another class; a picture that differs by one level is none."""
    original = Image.open(flowers / "train" / "rose" / "0.png").convert("RGB")
    save(original, flowers / "test" / "rose" / "copied.bmp")
    save(original, flowers / "train" / "tulip" / "again.png")
    almost = original.copy()
    almost.putpixel((3, 3), (*original.getpixel((3, 3))[:2], original.getpixel((3, 3))[2] ^ 1))
    save(almost, flowers / "test" / "rose" / "almost.png")
    found = summary_of(flowers)
    sentences = [sentence for sentence in found.findings() if "class has a single" not in sentence]
    assert sentences == [
        "1 image of 'test' is in 'train', too: test/rose/copied.bmp = train/rose/0.png.",
        "1 image of 'train' repeats another one: train/tulip/again.png = train/rose/0.png.",
        "1 image is in several classes: train/tulip/again.png = train/rose/0.png, 'rose' and 'tulip'.",
    ]
    assert dict(found.rows())["duplicates across splits"] == "1"
    assert [[s["name"] for s in group] for group in found.report()["duplicates"]] == [
        ["train/rose/0.png", "train/tulip/again.png", "test/rose/copied.bmp"]
    ]


def test_wide_images_that_would_be_clipped_to_white_are_different():
    bright = [Image.fromarray(np.full((4, 4), value, dtype=np.uint16)) for value in (50_000, 50_001)]
    assert content_digest(bright[0]) != content_digest(bright[1])
    grey = Image.new("L", (4, 6), 9)
    assert content_digest(grey) == content_digest(grey.convert("RGB")) == content_digest(grey.convert("P"))
    assert content_digest(grey) != content_digest(Image.new("L", (6, 4), 9))


def test_what_is_left_out_is_counted_by_reason_and_named(flowers):
    (flowers / "train" / "rose" / "notes.pdf").write_bytes(b"x")
    (flowers / "train" / "tulip" / "notes.pdf").write_bytes(b"x")
    found = summary_of(flowers)
    assert dict(found.rows())["left out"].startswith("2: .pdf ")
    assert sorted(each["path"] for each in found.report()["left_out"]) == [
        "train/rose/notes.pdf",
        "train/tulip/notes.pdf",
    ]


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_seen(flowers):
    (flowers / "train" / "rose" / "0.png").write_bytes(b"no image")
    found = summary_of(flowers)
    assert [each.path for each in found.inspection.unreadable] == ["train/rose/0.png"]
    assert sum(found.inspection.sizes.values()) == 16 and found.inspection.seen == 17
    assert "1 image cannot be read: train/rose/0.png (it is no image of a known format)." in found.findings()


def test_a_look_ends_in_time_and_says_how_much_it_saw(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(inspection, "time", type("Clock", (), {"monotonic": lambda: next(clock)}))
    arguments = ImageDataArguments()
    found = summarize(arguments, load_train_and_eval(arguments, seed=0), seconds=101)
    assert 50 < found.inspection.seen < 101 and not found.inspection.is_whole
    rows = dict(found.rows())
    assert rows["looked at"] == f"{found.inspection.seen}, drawn at random, of 2,500 images"
    assert rows["duplicates across splits"] == "none among those looked at"


def test_of_many_classes_the_largest_and_the_smallest_are_shown():
    classes = {f"c{number}": number for number in range(20)}
    found = DataSummary("d", "a folder", "images", [SplitSummary("train", 190, classes)])
    header, rows = found.class_rows()
    assert header == ("images of class", "train")
    assert rows == [
        *(("c19", "19"), ("c18", "18"), ("c17", "17")),
        ("14 classes between", str(sum(range(3, 17)))),
        *(("c2", "2"), ("c1", "1"), ("c0", "0")),
    ]
    assert found.findings() == [
        "one class has no images in 'train': c0.",
        "one class has a single image in 'train': c1.",
    ]


def test_an_imbalance_of_more_than_a_hundred_is_worth_a_look():
    for most, sentences in (
        (400, []),
        (404, ["the largest class of 'train' has 101 times as many images as the smallest."]),
    ):
        found = DataSummary("d", "a folder", "images", [SplitSummary("train", 0, {"a": 4, "b": most})])
        assert found.findings() == sentences


def test_a_stream_is_not_read():
    arguments = ImageDataArguments(dataset=str(Path(__file__).parent / "none"), streaming=True, class_names=["a"])

    class Stream:
        name, unit, is_stream, left_out, notes = "train", "images", True, (), ()

    found = summarize(arguments, [Stream()])
    assert dict(found.rows())["train"] == "a stream, which is not counted"
    assert found.class_rows()[1] == [] and found.inspection is None and found.findings() == []


def test_videos_are_counted_without_being_decoded():
    arguments = VideoDataArguments()
    found = summarize(arguments, load_videos(arguments, seed=0))
    assert found.unit == "videos" and found.origin == "embedded in dna-hf"
    assert dict(found.rows())["train"] == "16,000 videos, 8 classes, 2,000 each"


def test_a_run_says_what_it_begins_with_and_keeps_it(tmp_path):
    told = []
    run = tiny_run(tmp_path / "out", max_steps=5, gradient_accumulation_steps=2)
    train_classifier(run, announce=lambda summary, facts: told.append((summary, dict(facts))))
    ((summary, facts),) = told
    assert facts["model"] == "dna_vit, dna attention" and facts["device"] == "cpu" and facts["precision"] == "float32"
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert facts["training"] == f"5 steps of 16, {state['epoch']:.3g} epochs"
    written = json.loads((tmp_path / "out" / "data_summary.json").read_text())
    assert written == json.loads(json.dumps(summary.report())) | {"run": facts}
    assert written["splits"]["train"]["samples"] == 40 and written["splits"]["test"]["samples"] == 20
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize("options", [{}, {"dataloader_drop_last": True}, {"num_train_epochs": 0.5}])
def test_steps_are_those_that_the_trainer_counts(tmp_path, options):
    told = {}
    run = tiny_run(tmp_path / "out", **{"num_train_epochs": 2, "per_device_train_batch_size": 16} | options)
    train_classifier(run, announce=lambda summary, facts: told.update(facts))
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    assert told["training"].startswith(f"{state['max_steps']} steps of 16, ")


def test_a_split_that_cannot_be_read_is_named_and_the_others_are_summarized(tmp_path):
    """As the hidden test split of a competition, whose labels are -1."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    for split, labels in (("train", [0, 1, 1]), ("test", [-1, -1])):
        columns = {"image": [picture() for _ in labels], "label": labels}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "set" / f"{split}.parquet")
    arguments = ImageDataArguments(dataset=str(tmp_path / "set"))
    splits = load_all(arguments)
    assert {name: len(split) for name, split in splits.items()} == {"train": 3}
    found = summarize(arguments, list(splits.values()))
    (one,) = found.left_out
    assert one.path == "split 'test'" and "label -1" in one.reason


@pytest.mark.parametrize("before", ["", "~/"])
def test_a_report_does_not_say_where_a_folder_lay(flowers, monkeypatch, before):
    monkeypatch.setenv("HOME", str(flowers.parent))
    dataset = f"{before or f'{flowers.parent}/'}{flowers.name}"
    arguments = ImageDataArguments(dataset=dataset)
    splits = load_all(arguments).values()
    assert summarize(arguments, list(splits)).report()["dataset"] == flowers.name
    assert provenance(arguments, *splits).name == flowers.name


def test_two_summaries_of_the_same_data_are_the_same(flowers, tmp_path):
    for name in "ab":
        write_summary(tmp_path / f"{name}.json", summary_of(flowers))
    digests = {hashlib.sha256((tmp_path / f"{name}.json").read_bytes()).hexdigest() for name in "ab"}
    assert len(digests) == 1


def test_images_are_summarized_without_torch_and_transformers():
    code = (
        "import sys; from dna_hf.data.arguments import ImageDataArguments as A; "
        "from dna_hf.data.sources import load_train_and_eval as load; from dna_hf.data.summary import summarize; "
        "print(summarize(A(), load(A(), 0)).inspection.seen, {'torch', 'transformers'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120)
    assert done.stdout.strip() == "2500 set()", done.stderr


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((8, 8), np.nan, np.float32), "floating-point numbers from nan to nan"),
        (np.full((8, 8), 300, np.float32), "floating-point numbers from 300 to 300"),
        (np.full((8, 8), -0.5, np.float32), "floating-point numbers from -0.5 to -0.5"),
        (np.full((8, 8), 2**20, np.int32), "numbers of 32 bits from 1048576"),
    ],
)
def test_what_training_refuses_cannot_be_read_here_either(flowers, values, reason, monkeypatch):
    save(Image.fromarray(values), flowers / "train" / "rose" / "wide.tif")
    save(Image.fromarray(np.full((8, 8), 0.5, np.float32)), flowers / "train" / "rose" / "fine.tif")
    # names are those from the folder on, however that is given
    monkeypatch.chdir(flowers.parent)
    (one,) = summary_of(flowers.name).inspection.unreadable
    assert one.path == "train/rose/wide.tif" and reason in one.reason
    with pytest.raises(DataError, match="cannot read image") as refused:
        read_image_file(flowers / one.path)
    assert one.reason in str(refused.value)


def test_a_folder_without_images_is_named(flowers):
    (flowers / "train" / "lily" / "old").mkdir(parents=True)
    found = summary_of(flowers)
    assert found.left_out == [LeftOut("train/lily", EMPTY)]
    assert "1 folder holds no images: train/lily." in found.findings()


def test_classes_whose_names_differ_only_in_case_are_named(flowers):
    save(picture(), flowers / "train" / "ROSE" / "0.png")
    assert "the names of some classes differ only in case: ROSE and rose." in summary_of(flowers).findings()


def test_three_names_are_shown_of_what_is_left_out_for_one_reason(flowers):
    for number in range(5):
        (flowers / "train" / "rose" / f"{number}.pdf").write_bytes(b"x")
    (flowers / "train" / "rose" / "notes").write_bytes(b"x")
    found = summary_of(flowers)
    rows = [value for name, value in found.rows() if name == "left out"]
    names = ", ".join(f"train/rose/{number}.pdf" for number in range(3))
    assert rows == [f"5: .pdf is no image: {names} and 2 more", "1: no image by its name: train/rose/notes"]
    assert len(found.report()["left_out"]) == 6
