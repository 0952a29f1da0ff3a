"""Labels as people have them, for several labels for each image and for regression: what is read, or the sentence."""

import re

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, List, Value
from PIL import Image

from dna_hf.data.arguments import ImageDataArguments, VideoDataArguments
from dna_hf.data.errors import DataError
from dna_hf.data.images import image_processor, torch_dataset
from dna_hf.data.label_parts import several_label_parts
from dna_hf.data.problem_types import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from dna_hf.data.sources import load_split, load_train_and_eval
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.sections import data_arguments


GREY = Image.new("RGB", (8, 8), (90, 90, 90))
STORED = {"labels": List(ClassLabel(names=["x", "y"]))}
COLUMNS = {"rose": [0, 1, 0, 1], "tulip": [True, False, False, True]}
BOTH = {"label_column": ["rose", "tulip"]}
PLACE = {"x": [0.5, 1.0, 2.0], "y": [-1.0, -100.0, 3.0]}
TEXTS = ["rose;tulip", "rose", "", "tulip | rose", None]


def save(path, columns, features=None):
    """A parquet file of grey pictures with these columns."""
    count = len(next(iter(columns.values())))
    rows = datasets.Dataset.from_dict({"image": [GREY] * count} | columns)
    kinds = {"image": datasets.Image(), **(features or {})}
    rows = rows.cast(datasets.Features(rows.features | kinds))
    path.parent.mkdir(exist_ok=True, parents=True)
    rows.to_parquet(path)
    return str(path)


READ = {
    # columns, problem type that is asked for, keys -> problem type, names, vectors
    "lists of text": (
        {"labels": [["b"], ["c", "b"], [], ["a"]]},
        None,
        {},
        MULTI_LABEL,
        "abc",
        ["010", "011", "000", "100"],
    ),
    "a label twice": ({"labels": [["b", "b"], ["a"]]}, None, {}, MULTI_LABEL, "ab", ["01", "10"]),
    "large text": ({"labels": [["b"], ["a"]]}, None, {}, MULTI_LABEL, "ab", ["01", "10"]),
    "lists of numbers": (
        {"labels": [[0], [2, 0, 0], [], [1]]},
        None,
        {},
        MULTI_LABEL,
        "012",
        ["100", "101", "000", "010"],
    ),
    "numbers from 1 on": ({"labels": [[1], [2, 1]]}, None, {"label_base": 1}, MULTI_LABEL, "12", ["10", "11"]),
    "vectors of 0 and 1": ({"labels": [[0, 1], [1, 1], [0, 0]]}, None, {}, MULTI_LABEL, "01", ["01", "11", "00"]),
    "vectors of booleans": ({"labels": [[False, True], [True, True]]}, None, {}, MULTI_LABEL, "01", ["01", "11"]),
    "vectors of floats": ({"labels": [[0.0, 1.0], [1.0, 1.0]]}, MULTI_LABEL, {}, MULTI_LABEL, "01", ["01", "11"]),
    "numbers and names": (
        {"labels": [[2], [0]]},
        None,
        {"class_names": ["a", "b", "c"]},
        MULTI_LABEL,
        "abc",
        ["001", "100"],
    ),
    "stored classes": ({"labels": [[1], [0, 1]]}, None, {}, MULTI_LABEL, "xy", ["01", "11"]),
    "stored classes in another order": (
        {"labels": [[1], [0, 1]]},
        None,
        {"class_names": ["y", "x"]},
        MULTI_LABEL,
        "yx",
        ["10", "11"],
    ),
    "text in another order": (
        {"labels": [["b"], ["a"]]},
        None,
        {"class_names": ["b", "a", "c"]},
        MULTI_LABEL,
        "bac",
        ["100", "010"],
    ),
    "a column for each class": (COLUMNS, None, BOTH, MULTI_LABEL, ["rose", "tulip"], ["01", "10", "00", "11"]),
    "columns in another order": (
        COLUMNS,
        None,
        BOTH | {"class_names": ["tulip", "rose"]},
        MULTI_LABEL,
        ["tulip", "rose"],
        ["10", "01", "00", "11"],
    ),
    "columns under other names": (
        COLUMNS,
        None,
        BOTH | {"class_names": ["a", "b"]},
        MULTI_LABEL,
        "ab",
        ["01", "10", "00", "11"],
    ),
    "one class in one column": ({"rose": [0, 1]}, None, {"label_column": ["rose"]}, MULTI_LABEL, ["rose"], ["0", "1"]),
    "columns of floats": (
        {"rose": [0.0, 1.0], "tulip": [1.0, 1.0]},
        MULTI_LABEL,
        BOTH,
        MULTI_LABEL,
        ["rose", "tulip"],
        ["01", "11"],
    ),
    "delimited text": (
        {"labels": TEXTS},
        MULTI_LABEL,
        {},
        MULTI_LABEL,
        ["rose", "tulip"],
        ["11", "10", "00", "11", "00"],
    ),
    "JSON and Python lists": (
        {"labels": ['["a", "b"]', "['b']", "[]"]},
        MULTI_LABEL,
        {},
        MULTI_LABEL,
        "ab",
        ["11", "01", "00"],
    ),
    "lists as text": ({"labels": ['["a", "b"]', None, "[]"]}, None, {}, MULTI_LABEL, "ab", ["11", "00", "00"]),
    "a name with a comma": (
        {"labels": ['["red, white"]', "[]", '["a"]']},
        MULTI_LABEL,
        {},
        MULTI_LABEL,
        ["a", "red, white"],
        ["01", "00", "10"],
    ),
    "a column of numbers": ({"label": [0.5, -100.0]}, None, {}, REGRESSION, ["label"], [[0.5], [-100]]),
    "whole numbers": ({"age": [30, 7]}, REGRESSION, {}, REGRESSION, ["age"], [[30], [7]]),
    "several outputs": (PLACE, None, {"label_column": ["y", "x"]}, REGRESSION, "yx", [[-1, 0.5], [-100, 1], [3, 2]]),
    "outputs in lists": (
        {"label": [[1.5, 2.0], [3.0, 4.0]]},
        REGRESSION,
        {},
        REGRESSION,
        ["label_0", "label_1"],
        [[1.5, 2], [3, 4]],
    ),
    "named outputs in lists": (
        {"label": [[1.5], [3.0]]},
        REGRESSION,
        {"class_names": ["angle"]},
        REGRESSION,
        ["angle"],
        [[1.5], [3]],
    ),
    "columns of text": (
        {"rose": ["true", "False"], "tulip": ["0", "1"]},
        None,
        BOTH,
        MULTI_LABEL,
        ["rose", "tulip"],
        ["10", "01"],
    ),
    "decimals": ({"label": [0.5, 2.0]}, None, {}, REGRESSION, ["label"], [[0.5], [2]]),
}
FEATURES = {
    "stored classes": STORED,
    "stored classes in another order": STORED,
    "large text": {"labels": List(Value("large_string"))},
    "columns of text": {"rose": Value("string_view")},
    "decimals": {"label": Value("decimal128(4, 1)")},
}


@pytest.mark.parametrize("case", READ)
def test_what_is_read(tmp_path, case):
    columns, wanted, keys, problem_type, names, vectors = READ[case]
    path = save(tmp_path / "train.parquet", columns, FEATURES.get(case))
    images = load_split(ImageDataArguments(dataset=path, **keys), "train", problem_type=wanted)
    assert (images.problem_type, images.class_names) == (problem_type, list(names))
    assert images.labels().dtype == np.float32
    assert images.labels().tolist() == [[float(value) for value in row] for row in vectors]
    # what was decided is said
    assert any("problem_type is" in note for note in images.notes) == (wanted is None)
    sample = torch_dataset(images, image_processor(ImageDataArguments(), (8, 8)))[1]
    assert sample["labels"] == images.labels()[1].tolist()


ERRORS = {
    # columns, problem type that is asked for, keys -> the sentence
    "null": ({"label": [0.5, 1.0, None]}, None, {}, "row 2 of split 'train' has null in column 'label'"),
    "nan": (
        {"x": [0.5, 1.0], "y": [1.0, float("nan")]},
        REGRESSION,
        {"label_column": ["x", "y"]},
        "row 1 .* has nan in column 'y'",
    ),
    "infinite": ({"label": [0.5, float("-inf")]}, None, {}, "row 1 .* has -inf"),
    "too large": ({"label": [0.5, 1e300]}, None, {}, r"row 1 .* has 1e\+300"),
    "null list": ({"labels": [["a"], None]}, None, {}, "row 1 .* has null in column 'labels': give an empty list"),
    "null in a list": ({"labels": [["a"], ["b", None]]}, None, {}, "row 1 .* has null in a list of column 'labels'"),
    "two and more": (COLUMNS | {"rose": [0, 2, 0, 1]}, None, BOTH, "row 1 .* has 2 for class 'rose'"),
    "other words than true and false": (
        {"rose": ["true", "often"], "tulip": ["false", "true"]},
        None,
        BOTH,
        "row 1 .* has 'often' in column 'rose': give 0 or 1",
    ),
    "half": ({"labels": [[0.0, 1.0], [0.5, 0.0]]}, MULTI_LABEL, {}, "row 1 .* has 0.5 for class '0'"),
    "lists of several lengths": (
        {"label": [[1.5, 2.0], [3.0]]},
        REGRESSION,
        {},
        "row 1 .* has 1 numbers in column 'label', but 2",
    ),
    "floats in lists": (
        {"labels": [[0.0, 1.0]]},
        None,
        {},
        "may be several labels .* or the numbers of a regression: set problem_type",
    ),
    "floats that may be classes": (
        {"label": [0.0, 1.0, 2.0]},
        None,
        {},
        "all of them whole, .* set problem_type to regression",
    ),
    "columns that may be either": (
        {"x": [0.0, 1.0], "y": [1.0, 0.0]},
        None,
        {"label_column": ["x", "y"]},
        "or to multi_label_classification",
    ),
    "text that may be a list": (
        {"label": ["a", "b;c"]},
        None,
        {},
        "holds 'b;c': set problem_type to multi_label_classification if",
    ),
    "a broken list": ({"labels": ["['a'", "[]"]}, MULTI_LABEL, {}, r"row 0 .*\['a'.* is no list: write 'rose;tulip'"),
    "commas": ({"labels": ["a,b", "b,c", "a"]}, MULTI_LABEL, {}, "separate labels by ';' or '|'"),
    **{
        f"labels joined by {sign!r}, {wanted}": (
            {"labels": ["a", "b", f"a{sign}b", "c"]},
            wanted,
            {},
            f"holds 'a{re.escape(sign)}b': {fix}",
        )
        for sign in (",", ", ", " ", "/", "+", " & ")
        for wanted, fix in ((None, "set problem_type to multi_label"), (MULTI_LABEL, "separate labels by ';'"))
    },
    **{
        f"labels that are all joined by {sign!r}": (
            {"labels": [f"a{sign}b", f"b{sign}c", "a"]},
            MULTI_LABEL,
            {},
            "separate labels by ';' or '|'",
        )
        for sign in (" ", "/")
    },
    "a gap in the numbers": ({"labels": [[0], [3]]}, None, {}, r"are not 0\.\.n-1"),
    "a number outside the names": (
        {"labels": [[0], [3]]},
        None,
        {"class_names": ["a", "b"]},
        "row 1 .* has label 3 .* outside the 2 classes",
    ),
    "lists that may be vectors": (
        {"labels": [[0, 1], [1, 0]]},
        None,
        {},
        "may be both classes of each image, or 1 for the",
    ),
    "numbers from 1 on": ({"labels": [[1], [2]]}, None, {}, r"are not 0\.\.n-1 .* set label_base to 1"),
    "a base of text": (
        {"labels": [["a"], ["b"]]},
        None,
        {"label_base": 1},
        "label_base is 1, but column 'labels' holds lists of text",
    ),
    "a base of numbers": (
        {"label": [1.5, 2.0]},
        None,
        {"label_base": 1},
        "label_base is 1, but column 'label' holds numbers",
    ),
    "a negative number": ({"labels": [[0], [-1]]}, None, {"class_names": ["a", "b"]}, "row 1 .* has label -1"),
    "a text outside the names": (
        {"labels": [["a"], ["z"]]},
        None,
        {"class_names": ["a", "b"]},
        "'z', which class_names does not name",
    ),
    "other names of stored classes": (
        {"labels": [[0], [1]]},
        None,
        {"class_names": ["x", "z"]},
        "class_names are x, z, but the classes",
    ),
    "names for some columns": (
        COLUMNS,
        None,
        BOTH | {"class_names": ["rose", "a"]},
        "give the same names, or one new name",
    ),
    "a column that is not there": (COLUMNS, None, {"label_column": ["rose", "tulpi"]}, "label_column names 'tulpi'"),
    "a column twice": (COLUMNS, None, {"label_column": ["rose", "rose"]}, "named twice"),
    "several labels, of classes": (
        {"label": [0, 1]},
        MULTI_LABEL,
        {"label_column": "label"},
        "needs a column of lists, .* holds whole numbers",
    ),
    "several labels, found nowhere": (
        {"label": [0, 1]},
        MULTI_LABEL,
        {},
        "set label_column to one or several of label",
    ),
    "a regression of text": (
        {"label": ["a", "b"]},
        REGRESSION,
        {"label_column": "label"},
        "needs numbers: .* holds text",
    ),
    "one class in lists": (
        {"label": [["a"], ["b"]]},
        SINGLE_LABEL,
        {},
        "needs one column with the class of each image, .* lists of text",
    ),
    "one class as numbers": (
        {"label": [0.5, 1.5]},
        SINGLE_LABEL,
        {},
        "needs one column with the class of each image, .* holds numbers",
    ),
    "one class in columns": (COLUMNS, SINGLE_LABEL, BOTH, "needs one column with the class of each image"),
    "lists of lists": ({"labels": [[["a"]], [["b"]]]}, None, {}, "lists of other things, and no labels"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_said(tmp_path, case):
    columns, wanted, keys, message = ERRORS[case]
    features = STORED if "stored" in case else None
    path = save(tmp_path / "train.parquet", columns, features)
    with pytest.raises(DataError, match=message) as raised:
        load_split(ImageDataArguments(dataset=path, **keys), "train", problem_type=wanted)
    assert str(raised.value).endswith(".") and "\n" not in str(raised.value)


@pytest.mark.parametrize("case", ["lists of text", "stored classes", "several outputs", "a column for each class"])
def test_streams_have_the_same_vectors(tmp_path, case):
    columns, wanted, keys, problem_type, names, vectors = READ[case]
    path = save(tmp_path / "train.parquet", columns, FEATURES.get(case))
    keys = keys | ({"class_names": list(names)} if case == "lists of text" else {})
    images = load_split(ImageDataArguments(dataset=path, streaming=True, **keys), "train", problem_type=wanted)
    samples = list(torch_dataset(images, image_processor(ImageDataArguments(), (8, 8))))
    assert images.problem_type == problem_type
    assert [sample["labels"] for sample in samples] == [[float(value) for value in row] for row in vectors]


def test_streams_need_names_and_name_the_row(tmp_path):
    path = save(tmp_path / "train.parquet", {"labels": [["a"], ["b"]]})
    with pytest.raises(DataError, match="with streaming, give class_names"):
        load_split(ImageDataArguments(dataset=path, streaming=True), "train")
    images = load_split(ImageDataArguments(dataset=path, streaming=True, class_names=["a", "c"]), "train")
    with pytest.raises(DataError, match="row 1 of split 'train' has label b"):
        list(images.rows)


def test_a_name_of_one_class_may_look_like_a_list(tmp_path):
    path = save(tmp_path / "train.parquet", {"label": ["a", "b;c"]})
    assert load_split(ImageDataArguments(dataset=path), "train", problem_type=SINGLE_LABEL).class_names == ["a", "b;c"]


def test_the_only_column_of_stored_classes_goes_before_usual_names(tmp_path):
    columns = {"species": [0, 1], "labels": [["a"], ["b"]]}
    path = save(tmp_path / "train.parquet", columns, {"species": ClassLabel(names=["x", "y"])})
    images = load_split(ImageDataArguments(dataset=path), "train")
    assert (images.problem_type, images.class_names) == (SINGLE_LABEL, ["x", "y"])
    images = load_split(ImageDataArguments(dataset=path), "train", problem_type=MULTI_LABEL)
    assert images.class_names == ["a", "b"]


def test_a_list_of_columns_is_for_images():
    with pytest.raises(ConfigurationError, match=r"data\.label_column must be str or null"):
        data_arguments({"label_column": ["a", "b"]}, VideoDataArguments)


def test_a_split_to_evaluate_on_may_lack_labels(tmp_path):
    save(tmp_path / "data" / "train.parquet", {"labels": [["b"], ["c", "a"], []]})
    save(tmp_path / "data" / "test.parquet", {"labels": [["c"], []]})
    train, evaluation = load_train_and_eval(ImageDataArguments(dataset=str(tmp_path / "data")), 0)
    assert train.class_names == evaluation.class_names == ["a", "b", "c"]
    assert evaluation.labels().tolist() == [[0, 0, 1], [0, 0, 0]]
    save(tmp_path / "data" / "test.parquet", {"labels": [["z"], []]})
    with pytest.raises(DataError, match="name different classes"):
        load_train_and_eval(ImageDataArguments(dataset=str(tmp_path / "data")), 0)


def test_a_part_of_a_regression_is_held_out(tmp_path):
    values = np.random.default_rng(0).normal(size=40).tolist()
    path = save(tmp_path / "train.parquet", {"label": values})
    parts = load_train_and_eval(ImageDataArguments(dataset=path), 3)
    assert [len(part) for part in parts] == [36, 4]
    together = sorted(float(value) for part in parts for value in part.labels()[:, 0])
    assert together == sorted(np.float32(values).tolist())
    again = load_train_and_eval(ImageDataArguments(dataset=path), 3)
    other = load_train_and_eval(ImageDataArguments(dataset=path), 4)
    assert parts[1].labels().tolist() == again[1].labels().tolist() != other[1].labels().tolist()


def test_of_several_labels_every_class_is_held_out_where_possible(tmp_path):
    labels = [["often", "pair"] if number < 2 else ["often"] for number in range(38)] + [["once"], []]
    path = save(tmp_path / "train.parquet", {"labels": labels})
    for seed in range(5):
        train, held = load_train_and_eval(ImageDataArguments(dataset=path), seed)
        assert train.class_names == ["often", "once", "pair"]
        assert len(held) == 4 and held.class_counts()[2] == 1
        # the only image of a class is to train on, which a sentence says
        assert train.class_counts().tolist()[1:] == [1, 1] and held.class_counts()[1] == 0
        assert any("None of them are of class 'once'." in note for note in held.notes)


def test_drawn_parts_are_random_and_spread():
    random = np.random.default_rng(0)
    vectors = (random.random((400, 12)) < np.linspace(0.004, 0.5, 12)).astype(np.float32)
    drawn = [several_label_parts(vectors, 40, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    for kept, held, lacking in drawn:
        assert sorted([*kept, *held]) == list(range(400)) and len(held) == 40
        several = np.flatnonzero(vectors.sum(axis=0) > 1)
        assert vectors[held][:, several].any(axis=0).all() and vectors[kept][:, several].any(axis=0).all()
        assert all(vectors[:, number].sum() == 1 for number in lacking)
    assert drawn[0][1].tolist() == drawn[1][1].tolist() != drawn[2][1].tolist()
    # more classes than can be drawn
    kept, held, lacking = several_label_parts(np.eye(6).repeat(2, axis=0), 3, np.random.default_rng(0))
    assert len(held) == 3 and len(lacking) == 3


TABLES = {
    # name of the table, its lines, problem type that is asked for, keys -> names, vectors
    "delimited text": (
        "metadata.csv",
        "labels\n0.png,b;a\n1.png,\n2.png,a|c",
        MULTI_LABEL,
        {},
        "abc",
        ["110", "000", "101"],
    ),
    "lists as text": (
        "metadata.csv",
        'labels\n0.png,"[""b""]"\n1.png,[]\n2.png,"[\'a\']"',
        None,
        {},
        "ab",
        ["01", "00", "10"],
    ),
    "lists": (
        "metadata.jsonl",
        '{"file_name": "0.png", "labels": ["b"]}\n'
        '{"file_name": "1.png", "labels": []}\n{"file_name": "2.png", "labels": ["a"]}',
        None,
        {},
        "ab",
        ["01", "00", "10"],
    ),
    "columns": (
        "metadata.csv",
        "rose,tulip\n0.png,0,1\n1.png,1,1\n2.png,0,0",
        None,
        BOTH,
        ["rose", "tulip"],
        ["01", "11", "00"],
    ),
    "truth": (
        "metadata.csv",
        "rose,tulip\n0.png,False,True\n1.png,True,True\n2.png,True,False",
        None,
        BOTH,
        ["rose", "tulip"],
        ["01", "11", "10"],
    ),
    "numbers": (
        "metadata.csv",
        "angle\n0.png,0.5\n1.png,-1\n2.png,2",
        None,
        {"label_column": "angle"},
        ["angle"],
        [[0.5], [-1], [2]],
    ),
    "whole numbers": (
        "metadata.csv",
        "age\n0.png,5\n1.png,10\n2.png,2",
        REGRESSION,
        {"label_column": "age"},
        ["age"],
        [[5], [10], [2]],
    ),
    "a cell without a number": (
        "metadata.csv",
        "angle\n0.png,0.5\n1.png,\n2.png,2",
        None,
        {"label_column": "angle"},
        "row 1 of split 'train' has null",
        None,
    ),
    "not a number": (
        "metadata.csv",
        "angle\n0.png,0.5\n1.png,nan\n2.png,2",
        REGRESSION,
        {"label_column": "angle"},
        "row 1 of split 'train' has n",
        None,
    ),
}


@pytest.mark.parametrize("case", TABLES)
def test_tables_beside_pictures(tmp_path, case):
    name, lines, wanted, keys, names, vectors = TABLES[case]
    for number in range(3):
        GREY.save(tmp_path / f"{number}.png")
    (tmp_path / name).write_text(lines if name.endswith("jsonl") else f"file_name,{lines}\n")
    arguments = ImageDataArguments(dataset=str(tmp_path), **keys)
    if vectors is None:
        with pytest.raises(DataError, match=names):
            load_split(arguments, "train", problem_type=wanted)
        return
    images = load_split(arguments, "train", problem_type=wanted)
    assert images.class_names == list(names)
    assert images.labels().tolist() == [[float(value) for value in row] for row in vectors]


def test_a_column_beside_class_folders(tmp_path):
    """The folders are classes, until another column is named."""
    for number, name in enumerate(["rose", "tulip"]):
        (tmp_path / name).mkdir()
        GREY.save(tmp_path / name / f"{number}.png")
    (tmp_path / "metadata.csv").write_text("file_name,angle\nrose/0.png,0.5\ntulip/1.png,-1.5\n")
    assert load_split(ImageDataArguments(dataset=str(tmp_path)), "train").class_names == ["rose", "tulip"]
    images = load_split(ImageDataArguments(dataset=str(tmp_path), label_column="angle"), "train")
    assert (images.problem_type, images.labels().tolist()) == (REGRESSION, [[0.5], [-1.5]])
