"""Slices of columns of all kinds, and the accuracies on them against the evaluation of the whole."""

import datasets
import numpy as np
import pytest

from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.labelled_images import LabelledImages
from dna_hf.data.sources import load_split
from dna_hf.evaluation import image_classification
from dna_hf.evaluation.figures import SliceFigure
from dna_hf.evaluation.image_classification import evaluate_checkpoint
from dna_hf.evaluation.intervals import wilson_interval
from dna_hf.evaluation.slices import slice_figures, slice_rows
from tests.kit.classifier import save_classifier


NAN = float("nan")


def slices(values, feature=None):
    """Slice a column `x` of these values; checks that every row is in one slice, and no slice is empty."""
    features = None
    if feature is not None:
        features = datasets.Features({"x": feature, "label": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"x": values, "label": [0] * len(values)}, features=features)
    images = LabelledImages(rows, "image", "label", ["a"], "test")
    result = {name: rows.tolist() for name, rows in slice_rows(images, "x").items()}
    assert sorted(sum(result.values(), [])) == list(range(len(values)))
    assert all(result.values())
    return result


def test_few_integers_by_value():
    assert slices([10, 2, None, 2, -1]) == {"-1": [4], "2": [1, 3], "10": [0], "missing": [2]}
    assert list(slices(list(range(20)) * 2)) == [str(number) for number in range(20)]


def test_integers_of_more_than_20_values_by_quartile():
    result = slices([*range(40), None], datasets.Value("uint8"))
    assert list(result) == ["[0, 10)", "[10, 20)", "[20, 30)", "[30, 39]", "missing"]
    assert result["[10, 20)"] == list(range(10, 20)) and result["missing"] == [40]


def test_texts_and_booleans_by_value():
    assert slices(["b", None, "a", "b"]) == {"a": [2], "b": [0, 3], "missing": [1]}
    assert slices([True, None, False]) == {"False": [2], "True": [0], "missing": [1]}
    # a text that says so is missing, too
    assert slices(["missing", None, "a"]) == {"a": [2], "missing": [0, 1]}


def test_classes_by_name_in_their_order():
    feature = datasets.ClassLabel(names=["zebra", "ant", "unused", "bee"])
    assert slices([3, 1, -1, 0, 1, None], feature) == {"zebra": [3], "ant": [1, 4], "bee": [0], "missing": [2, 5]}


def test_lists_by_length():
    """As for the number of labels of an image."""
    expected = {"0": [1], "1": [0, 4], "3": [3], "missing": [2]}
    assert slices([[7], [], None, [1, 2, 3], [9]]) == expected
    assert slices([["a"], [], None, ["a", "b", "c"], ["d"]], datasets.LargeList(datasets.Value("string"))) == expected
    assert slices([[0.0, 1.0], None], datasets.List(datasets.Value("float32"), length=2)) == {"2": [0], "missing": [1]}


def test_numbers_by_quartile():
    values = [0.1, 0.8, 0.3, 0.4, 0.5, 0.6, 0.7, 0.2]
    expected = {"[0.1, 0.3)": [0, 7], "[0.3, 0.5)": [2, 3], "[0.5, 0.7)": [4, 5], "[0.7, 0.8]": [1, 6]}
    assert slices(values) == expected
    assert slices(values, datasets.Value("float32")) == expected


def test_quartiles_with_ties_infinities_and_missing_values():
    assert slices([5.0] * 4) == {"[5, 5]": [0, 1, 2, 3]}
    assert slices([0.0, 1.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0]) == {
        "[0, 2)": [0, 1],
        "[2, 5)": [2],
        "[5, 5]": [3, 4, 5, 6, 7],
    }
    assert slices([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]) == {"[0, 1]": [0, 1, 2, 3, 4, 5]}
    result = slices([float("inf"), NAN, 1.0, None, -float("inf"), 2.0])
    assert list(result) == ["[-inf, 1)", "[1, 2)", "[2, inf)", "[inf, inf]", "missing"]
    assert result["missing"] == [1, 3]
    assert slices([NAN, None], datasets.Value("float64")) == {"missing": [0, 1]}


def test_bounds_that_are_close_stay_different():
    assert len(slices([1 + number * 1e-12 for number in range(8)])) == 4


def test_quartiles_are_about_equal():
    values = np.random.default_rng(0).normal(size=1001).tolist()
    sizes = [len(rows) for rows in slices(values).values()]
    assert len(sizes) == 4 and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([str(number) for number in range(1001)], "1001 distinct texts"),
        ([{"a": 1}], "slice by text, numbers or lists"),
    ],
    ids=["texts", "structs"],
)
def test_columns_that_make_no_slices(values, message):
    with pytest.raises(DataError, match=message):
        slices(values)


def test_a_thousand_texts_will_do():
    assert len(slices([str(number) for number in range(1000)])) == 1000


def test_unknown_columns_and_images():
    images = load_split(ImageDataArguments(), "test")
    with pytest.raises(DataError, match=r"no column 'lable' \(did you mean 'label'\?\): slice by one of image, label"):
        slice_rows(images, "lable")
    with pytest.raises(DataError, match="no column 'xyz': slice by one of image, label"):
        slice_rows(images, "xyz")
    with pytest.raises(DataError, match="'image' holds the images"):
        slice_rows(images, "image")


def test_the_labels_are_sliced_by_the_names_that_were_given(tmp_path):
    """Also where they are texts, of which the loader makes numbers."""
    names = [f"class {number}" for number in range(10)]
    given = load_split(ImageDataArguments(class_names=names), "test")
    assert list(slice_rows(given, "label")) == names
    rows = load_split(ImageDataArguments(), "test").rows.select(range(6))
    rows.remove_columns("label").add_column("label", list("cabcab")).to_parquet(tmp_path / "texts.parquet")
    texts = load_split(ImageDataArguments(dataset=str(tmp_path / "texts.parquet")), "train")
    assert {name: found.tolist() for name, found in slice_rows(texts, "label").items()} == {
        "a": [1, 4],
        "b": [2, 5],
        "c": [0, 3],
    }


def test_figures_of_slices():
    hits, readable = np.array([True, False, True, True, True, True]), np.array([True] * 4 + [False] * 2)
    slices = {"a": np.array([0, 1, 4]), "b": np.array([2, 3]), "none can be read": np.array([5])}
    figures = slice_figures(slices, hits, readable)
    low, high = wilson_interval(1, 2)
    assert figures[0] == SliceFigure("a", samples=2, accuracy=0.5, low=low, high=high)
    assert figures[1].name == "b" and figures[1].accuracy == 1 and figures[1].high == 1


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A classifier that is right now and then, and the test images with more columns."""
    folder = tmp_path_factory.mktemp("slices")
    images = load_split(ImageDataArguments(), "test")
    # in another order than the data
    save_classifier(folder / "checkpoint", images.class_names[::-1])
    rows = images.rows.select(range(0, 500, 5)).cast_column("image", datasets.Image())
    rows = rows.add_column("brightness", [float(np.asarray(picture).mean()) for picture in rows["image"]])
    rows = rows.add_column("tags", [list(range(number % 4)) for number in range(len(rows))])
    rows.to_parquet(folder / "test.parquet")
    return str(folder / "checkpoint"), ImageDataArguments(dataset=str(folder / "test.parquet"))


@pytest.mark.parametrize(("column", "count"), [("label", 10), ("brightness", 4), ("tags", 4)])
def test_the_slices_make_up_the_whole(measured, column, count):
    result = evaluate_checkpoint(*measured, "train", batch_size=30, device="cpu", slices=column)
    figures = result.slices
    assert len(figures) == count
    assert sum(each.samples for each in figures) == result.figures.samples == 100
    mean = sum(each.samples * each.accuracy for each in figures) / 100
    assert mean == pytest.approx(result.figures.top1, abs=1e-12) and 0 < mean < 1
    # the layout of the file that the command line writes
    assert result.report()["slices"] == {
        each.name: {"images": each.samples, "accuracy": each.accuracy, "low": each.low, "high": each.high}
        for each in figures
    }
    if column == "label":
        assert {each.name: (each.accuracy, each.samples) for each in figures} == {
            each.name: (each.accuracy, each.samples) for each in result.per_class
        }
    elif column == "tags":
        # sliced evaluation of every fourth row is evaluation of a split of every fourth row
        rows = datasets.load_dataset("parquet", data_files=measured[1].dataset, split="train")
        part = measured[1].dataset.replace("test.parquet", "part.parquet")
        rows.select(range(3, 100, 4)).to_parquet(part)
        alone = evaluate_checkpoint(measured[0], ImageDataArguments(dataset=part), "train", device="cpu")
        (third,) = (each for each in figures if each.name == "3")
        assert third.accuracy == alone.figures.top1 and alone.slices is None


def test_the_model_runs_once_and_not_for_a_wrong_column(measured, monkeypatch):
    seen = []
    run = image_classification.logits_by_batch

    def counting(model, loader):
        for logits, labels in run(model, loader):
            seen.append(len(labels))
            yield logits, labels

    monkeypatch.setattr(image_classification, "logits_by_batch", counting)
    with pytest.raises(DataError, match="'brightnes'"):
        evaluate_checkpoint(*measured, "train", device="cpu", slices="brightnes")
    assert seen == []
    evaluate_checkpoint(*measured, "train", batch_size=30, device="cpu", slices="brightness")
    assert seen == [30, 30, 30, 10]


def test_streamed_data_has_no_slices(measured):
    streamed = ImageDataArguments(dataset=measured[1].dataset, streaming=True)
    with pytest.raises(DataError, match="leave out --streaming"):
        evaluate_checkpoint(measured[0], streamed, "train", slices="label")
