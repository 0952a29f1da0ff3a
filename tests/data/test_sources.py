"""Finding data sets, columns and class names, and refusing what does not fit."""

import io
import tarfile

import datasets
import numpy as np
import pytest
from PIL import Image

from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.sources import load_split, load_train_and_eval
from tests.kit.paths import shared_path


def picture(value=0, size=(8, 8)):
    return Image.new("RGB", size, (value, 255 - value, 0))


@pytest.fixture
def image_folder(tmp_path):
    """Two classes, splits train and val, with awkward names."""
    for split, count in (("train", 4), ("val", 2)):
        for label in ("a cat", "hünd"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                picture(number).save(folder / f"{number}.png")
    return tmp_path / "pets"


def parquet(path, labels, feature=None, **columns):
    features = {"picture": datasets.Image(), "kind": feature or datasets.Value("int64")}
    features |= {name: datasets.Value("string") for name in columns}
    rows = {"picture": [picture(i) for i in range(len(labels))], "kind": labels, **columns}
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).to_parquet(path)
    return str(path)


def test_embedded_set_is_balanced_and_named():
    train, test = load_train_and_eval(ImageDataArguments(), seed=0)
    assert (len(train.rows), len(test.rows)) == (2000, 500)
    assert train.class_names[0] == "T-shirt/top" and len(train.class_names) == 10
    assert np.bincount(train.rows["label"]).tolist() == [200] * 10
    assert np.bincount(test.rows["label"]).tolist() == [50] * 10


def test_embedded_set_is_the_reference_set():
    arrays = np.load(shared_path("data", "fashion-mnist-mini", "fashion_mnist_mini.npz"))
    rows = load_split(ImageDataArguments(), "test").rows.cast_column("image", datasets.Image())
    assert np.array_equal(np.asarray(rows[7]["image"]), arrays["x_test"][7])
    assert rows["label"][:] == arrays["y_test"].tolist()


def test_image_folder(image_folder):
    train, evaluation = load_train_and_eval(ImageDataArguments(dataset=str(image_folder)), seed=0)
    assert train.class_names == evaluation.class_names == ["a cat", "hünd"]
    # datasets calls a folder named val the validation split
    assert (len(train.rows), len(evaluation.rows), evaluation.name) == (8, 4, "validation")


def test_folder_without_splits_holds_out_a_stratified_part(image_folder):
    arguments = ImageDataArguments(dataset=str(image_folder / "train"), validation_fraction=0.25)
    train, held = load_train_and_eval(arguments, seed=0)
    assert (len(train.rows), len(held.rows)) == (6, 2)
    assert sorted(held.rows["label"]) == [0, 1]
    again, _ = load_train_and_eval(arguments, seed=0)
    assert [row["path"] for row in again.rows["image"]] == [row["path"] for row in train.rows["image"]]


@pytest.mark.parametrize("streaming", [False, True], ids=["local", "streaming"])
def test_cifar_parquet(streaming):
    folder = shared_path("data", "cifar10")
    train, test = load_train_and_eval(ImageDataArguments(dataset=str(folder), streaming=streaming), seed=0)
    assert train.class_names[0] == "airplane" and test.name == "test"
    assert set(next(iter(train.rows))["image"]) == {"bytes", "path"}


def test_parquet_file_with_numbered_labels(tmp_path):
    source = parquet(tmp_path / "all.parquet", [0, 1, 2, 1])
    arguments = ImageDataArguments(dataset=source, image_column="picture", label_column="kind")
    assert load_split(arguments, "train").class_names == ["0", "1", "2"]
    named = ImageDataArguments(dataset=source, label_column="kind", class_names=["x", "y", "z"])
    assert load_split(named, "train").class_names == ["x", "y", "z"]


def test_parquet_file_with_text_labels(tmp_path):
    source = parquet(tmp_path / "all.parquet", ["dog", "cat", "dog"], datasets.Value("string"))
    images = load_split(ImageDataArguments(dataset=source, label_column="kind"), "train")
    assert images.class_names == ["cat", "dog"]
    assert images.rows["kind"][:] == [1, 0, 1]


def test_taking_fewer_images_spreads_over_a_sorted_split(image_folder):
    arguments = ImageDataArguments(dataset=str(image_folder), max_train_samples=4, max_eval_samples=99)
    train, evaluation = load_train_and_eval(arguments, seed=0)
    assert sorted(train.rows["label"]) == [0, 0, 1, 1]
    assert len(evaluation.rows) == 4


@pytest.mark.parametrize(
    "argument",
    [
        *("dataset=./nowhere", "dataset=/nowhere/at/all", "dataset=nobody/nothing"),
        *("train_split=trian", "eval_split=dev"),
        *("image_column=img", "image_column=label", "label_column=fine", "label_column=image"),
    ],
)
def test_wrong_arguments_are_named(argument):
    name, _, value = argument.partition("=")
    with pytest.raises(DataError, match=value.removeprefix("./")):
        load_train_and_eval(ImageDataArguments(**{name: value}), seed=0)


def test_wrong_class_names_are_named():
    with pytest.raises(DataError, match="class_names"):
        load_train_and_eval(ImageDataArguments(class_names=["one", "two"]), seed=0)


def test_label_outside_the_classes_names_the_row(tmp_path):
    source = parquet(tmp_path / "all.parquet", [0, 1, 7, 1])
    with pytest.raises(DataError, match=r"row 2 .* label 7"):
        load_split(ImageDataArguments(dataset=source, label_column="kind", class_names=["a", "b"]), "train")
    source = parquet(tmp_path / "hidden.parquet", [-1, -1])
    with pytest.raises(DataError, match="not 0..n-1"):
        load_split(ImageDataArguments(dataset=source, label_column="kind"), "train")


def test_unnamed_text_label_is_refused(tmp_path):
    source = parquet(tmp_path / "all.parquet", ["dog", "cow"], datasets.Value("string"))
    with pytest.raises(DataError, match="cow"):
        load_split(ImageDataArguments(dataset=source, label_column="kind", class_names=["dog"]), "train")


def test_splits_with_different_class_folders_are_refused(image_folder):
    (image_folder / "val" / "hünd").rename(image_folder / "val" / "bird")
    with pytest.raises(DataError, match="'validation' has images of class 'bird'"):
        load_train_and_eval(ImageDataArguments(dataset=str(image_folder)), seed=0)


def test_files_that_are_no_data_set_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is not parquet")
    for name in ("notes.txt", "empty", "broken.parquet"):
        with pytest.raises(DataError, match=name):
            load_train_and_eval(ImageDataArguments(dataset=str(tmp_path / name)), seed=0)


def test_streaming_needs_class_names(tmp_path):
    source = parquet(tmp_path / "all.parquet", [0, 1])
    with pytest.raises(DataError, match="class_names"):
        load_split(ImageDataArguments(dataset=source, label_column="kind", streaming=True), "train")


@pytest.mark.parametrize(
    "values",
    [
        {"flip_probability": 1.5},
        {"validation_fraction": -0.1},
        {"max_train_samples": 0},
        {"crop_scale": [0.5]},
        {"crop_scale": [0.5, 1.5]},
        {"crop_ratio": [2.0, 1.0]},
        {"image_std": [0.5, 0.5, 0.0]},
    ],
    ids=lambda values: next(iter(values)),
)
def test_values_outside_their_range_are_named(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        ImageDataArguments(**values)


@pytest.fixture
def web_dataset(tmp_path):
    """Two training shards and one for validation, four images each, labels 0 and 1."""
    for split, shards in (("train", 2), ("validation", 1)):
        (tmp_path / "shards" / split).mkdir(parents=True)
        for shard in range(shards):
            with tarfile.open(tmp_path / "shards" / split / f"{split}-{shard:05d}.tar", "w") as archive:
                for number in range(4):
                    jpeg = io.BytesIO()
                    picture(number).save(jpeg, "JPEG")
                    for ending, content in (("jpg", jpeg.getvalue()), ("cls", str(number % 2).encode())):
                        member = tarfile.TarInfo(f"{shard}{number:03d}.{ending}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return str(tmp_path / "shards")


@pytest.mark.parametrize("streaming", [False, True])
def test_web_dataset(web_dataset, tmp_path, streaming):
    names = tmp_path / "classes.txt"
    names.write_text("a cat\nhünd\n", encoding="utf-8")
    arguments = ImageDataArguments(dataset=web_dataset, streaming=streaming, class_names=str(names))
    train, evaluation = load_train_and_eval(arguments, seed=0)
    assert (train.image_column, train.label_column, train.class_names) == ("jpg", "cls", ["a cat", "hünd"])
    assert [row["cls"] for row in train.rows] == [0, 1] * 4
    assert [row["cls"] for row in evaluation.rows] == [0, 1] * 2


def test_a_label_outside_the_classes_of_a_web_dataset_is_found(web_dataset):
    with pytest.raises(DataError, match="label 1, outside the 1 classes"):
        load_train_and_eval(ImageDataArguments(dataset=web_dataset, class_names=["a cat"]), seed=0)


def test_a_missing_file_of_class_names_is_named(web_dataset):
    with pytest.raises(DataError, match="cannot read class_names from 'nowhere.txt'"):
        load_train_and_eval(ImageDataArguments(dataset=web_dataset, class_names="nowhere.txt"), seed=0)


def test_an_evaluation_reads_no_more_than_it_is_told():
    assert len(load_split(ImageDataArguments(max_eval_samples=40), "test").rows) == 40
