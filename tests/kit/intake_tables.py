"""What comes of tables: parquet files that hold images, and tables beside images."""

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa

from .intake import (
    ALL,
    ROSES_AND_TULIPS,
    SHOWN,
    TEXTS,
    Case,
    all_of,
    both,
    folder,
    linked,
    pandas_parquet,
    parquet,
    table,
    write,
)


CONFIGS = write(
    "README.md",
    "---\nconfigs:\n- config_name: small\n  data_files: small.parquet\n"
    "- config_name: big\n  data_files: big.parquet\n---\n",
)
CLONE = all_of(
    CONFIGS,
    parquet("small.parquet", "rose tulip", ["rose", "tulip"]),
    parquet("big.parquet", SHOWN, TEXTS),
)
ORDERED = parquet("train.parquet", SHOWN, [0, 1, 0, 1], ["rose", "tulip"])
SWAPPED = parquet("test.parquet", "rose rose tulip", [1, 1, 0], ["tulip", "rose"])
HOLDOUT = all_of(
    parquet("train-00000-of-00001.parquet", SHOWN, TEXTS),
    parquet("holdout-00000-of-00001.parquet", "rose tulip", ["rose", "tulip"]),
)


def names_of_files(root: Path) -> None:
    pd.DataFrame({"file_name": ["a.png"], "label": ["rose"]}).to_parquet(root / "list.parquet")


def absolute_paths(root: Path) -> None:
    rows = [f"{path},{path.parent.name}" for path in sorted((root / "real").rglob("*.png"))]
    table("real/metadata.csv", "file_name,label", *rows)(root)


TABLES = [
    Case(
        "an unknown parquet file beside a split",
        HOLDOUT,
        error="holdout-00000-of-00001.parquet' is in no split, but .*: if it is a split, set eval_split to 'holdout'",
    ),
    Case(
        "an unknown parquet file that the user names",
        HOLDOUT,
        {"train": ROSES_AND_TULIPS, "holdout": {"rose": 1, "tulip": 1}},
        options={"eval_split": "holdout"},
    ),
    Case(
        "text labels of pandas",
        pandas_parquet,
        {"train": {"rose": 8, "tulip": 8}, "held out": ROSES_AND_TULIPS},
        options={"validation_fraction": 0.2},
    ),
    *(
        Case(
            f"text labels of type {kind}",
            parquet("train.parquet", SHOWN, pa.array(TEXTS).cast(kind)),
            {"train": ROSES_AND_TULIPS},
            split="train",
        )
        for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()))
    ),
    Case("a config of a clone", CLONE, {"train": ROSES_AND_TULIPS}, options={"dataset_config": "big"}, split="train"),
    Case(
        "a config that is not there",
        CLONE,
        error="BuilderConfig 'huge' not found",
        options={"dataset_config": "huge"},
        split="train",
    ),
    Case(
        "files that order their classes differently",
        all_of(ORDERED, SWAPPED),
        {"train": ROSES_AND_TULIPS, "test": {"rose": 2, "tulip": 1}},
    ),
    Case(
        "the one that orders them differently",
        all_of(ORDERED, SWAPPED),
        {"train": {"rose": 2, "tulip": 1}},
        dataset="test.parquet",
        split="train",
    ),
    Case(
        "parts of a split that order their classes differently",
        all_of(ORDERED, parquet("train-2.parquet", SHOWN, [1, 0, 1, 0], ["tulip", "rose"])),
        error="name the classes of 'label' in different orders",
        split="train",
    ),
    Case(
        "a test file that lacks a class",
        all_of(parquet("train.parquet", SHOWN, TEXTS), parquet("test.parquet", "tulip", ["tulip"])),
        {"train": ROSES_AND_TULIPS, "test": {"tulip": 1}},
    ),
    Case(
        "numbers of which the test file lacks one",
        all_of(parquet("train.parquet", SHOWN, [0, 1, 0, 1]), parquet("test.parquet", "tulip", [1])),
        {"train": {"0": 2, "1": 2}, "test": {"1": 1}},
        renamed={"rose": "0", "tulip": "1"},
    ),
    Case(
        "a test file with more columns",
        all_of(parquet("train.parquet", SHOWN, TEXTS), parquet("test.parquet", SHOWN, TEXTS, place=[1, 2, 3, 4])),
        {"train": ROSES_AND_TULIPS, "test": ROSES_AND_TULIPS},
    ),
    Case(
        "a part of a split with more columns",
        all_of(parquet("train-1.parquet", SHOWN, TEXTS), parquet("train-2.parquet", SHOWN, TEXTS, place=[1, 2, 3, 4])),
        error="train-2.parquet' has other columns than .*train-1.parquet' .place.",
        split="train",
    ),
    Case(
        "a file that is cut off",
        all_of(parquet("train.parquet", SHOWN, TEXTS), lambda root: os.truncate(root / "train.parquet", 300)),
        error="train.parquet' is no parquet file, or cut off: Parquet magic bytes not found",
    ),
    Case(
        "an unknown file beside a split",
        all_of(parquet("train.parquet", SHOWN, TEXTS), parquet("holdout.parquet", SHOWN, TEXTS)),
        error="holdout.parquet' is in no split, but .*train.parquet' is.*set eval_split to 'holdout'",
    ),
    Case(
        "an unknown file that the user names",
        all_of(parquet("train.parquet", SHOWN, TEXTS), parquet("holdout.parquet", SHOWN, TEXTS)),
        {"train": ROSES_AND_TULIPS, "holdout": ROSES_AND_TULIPS},
        options={"eval_split": "holdout"},
    ),
    *(
        Case(
            f"a file called {word}",
            all_of(parquet("train.parquet", SHOWN, TEXTS), parquet(f"{word}.parquet", "rose", ["rose"])),
            {"train": ROSES_AND_TULIPS, "validation": {"rose": 1}},
        )
        for word in ("validate", "Development")
    ),
    Case(
        "a column split of a parquet file",
        parquet("flowers.parquet", SHOWN, TEXTS, split=["train", "train", "test", "test"]),
        {"train": ROSES_AND_TULIPS},
        split="train",
        note="column 'split' divides nothing here",
    ),
    Case(
        "a list beside a parquet file",
        all_of(parquet("train.parquet", SHOWN, TEXTS), names_of_files),
        {"train": ROSES_AND_TULIPS},
        split="train",
        left_out={"list.parquet": "no parquet file of images, as the data are"},
    ),
    Case(
        "val and dev files",
        all_of(
            parquet("train.parquet", SHOWN, TEXTS),
            parquet("val.parquet", "rose tulip", ["rose", "tulip"]),
            parquet("dev.parquet", SHOWN, TEXTS),
        ),
        {"train": ROSES_AND_TULIPS, "val": {"rose": 1, "tulip": 1}},
    ),
    Case(
        "images beside a parquet file",
        all_of(parquet("data/train.parquet", SHOWN, TEXTS), folder("picture of a rose.png x1")),
        {"train": ROSES_AND_TULIPS},
        split="train",
        left_out={"picture of a rose.png": "no parquet file of images, as the data are"},
    ),
    *(
        Case(
            f"a parquet file: {name}{end}",
            parquet(f"{name}/train.parquet", SHOWN, TEXTS),
            {"train": ROSES_AND_TULIPS},
            dataset=f"{name}{end}",
            split="train",
        )
        for name in ("b[1]", "b::c", "c*")
        for end in ("", "/train.parquet")
    ),
    Case(
        "a label that is null",
        parquet("train.parquet", SHOWN, ["rose", None, "rose", None]),
        error="row 1 of split 'train' has no label in column 'label' .2 rows in all.",
    ),
    Case(
        "a number that is null",
        parquet("train.parquet", SHOWN, [0, 1, None, 1]),
        error="row 2 of split 'train' has no label",
    ),
    Case(
        "a class that is null",
        parquet("train.parquet", SHOWN, [0, None, 0, 1], ["rose", "tulip"]),
        error="row 1 of split 'train' has no label",
    ),
    Case(
        "an image that is null",
        parquet("train.parquet", "rose - rose tulip", TEXTS),
        error="row 1 of split 'train' has no image in column 'image'",
    ),
    Case(
        "labels that count from 1",
        parquet("train.parquet", SHOWN, [1, 2, 1, 2]),
        error="count from 1 .1, 2.: set label_base to 1",
        split="train",
    ),
    Case(
        "labels that count from 1, with names",
        parquet("train.parquet", SHOWN, [1, 2, 1, 2]),
        error="row 1 .*label 2, outside the 2 classes: they count from 1, set label_base to 1",
        options={"class_names": ["rose", "tulip"]},
        split="train",
    ),
    Case(
        "label_base with names",
        parquet("train.parquet", SHOWN, [1, 2, 1, 2]),
        {"train": ROSES_AND_TULIPS},
        options={"class_names": ["rose", "tulip"], "label_base": 1},
        split="train",
    ),
    Case(
        "label_base",
        parquet("train.parquet", SHOWN, [1, 2, 1, 2]),
        {"train": {"1": 2, "2": 2}},
        options={"label_base": 1},
        split="train",
        renamed={"rose": "1", "tulip": "2"},
    ),
    Case(
        "label_base of texts",
        parquet("train.parquet", SHOWN, TEXTS),
        error="label_base is 1, but column 'label' holds",
        options={"label_base": 1},
        split="train",
    ),
    Case(
        "labels with a gap",
        parquet("train.parquet", SHOWN, [0, 2, 0, 2]),
        error="are not 0..n-1 .0, 2.: give class_names",
        split="train",
    ),
    Case(
        "a class of one image",
        parquet("train.parquet", "rose tulip rose daisy tulip", [*TEXTS[:3], "daisy", "tulip"]),
        error="class 'daisy' has only one: add more",
        options={"validation_fraction": 0.5},
    ),
    Case(
        "fewer held out than classes",
        folder(*both("", count=4)),
        error="is 1, so that fewer are held out than there are classes .2: rose, tulip.: set it to at least 0.25",
    ),
    Case(
        "whole numbers, held out",
        parquet("train.parquet", " ".join([SHOWN] * 5), [0, 1] * 10),
        {"train": {"0": 9, "1": 9}, "held out": {"0": 1, "1": 1}},
        renamed={"rose": "0", "tulip": "1"},
    ),
]

CSV = "file_name,label,place"
BOTH, IN_SPLITS = ("rose", "tulip"), ("train", "train", "train", "val")
BESIDE = [
    Case(
        "metadata.csv with labels",
        folder(
            "train/#.png x2 = rose",
            "train/t#.png x2 = tulip",
            more=table("train/metadata.csv", CSV, "0.png,rose,a", "1.png,rose,b", "t0.png,tulip,a", "t1.png,tulip,b"),
        ),
        {"train": ROSES_AND_TULIPS},
        split="train",
        columns=("place",),
        note="labels are those of table 'metadata.csv'",
    ),
    Case(
        "metadata.csv with other columns",
        folder(*both("", count=4), more=table("metadata.csv", "file_name,place", "rose/0.png,a", "tulip/1.png,b")),
        ALL,
        split="train",
        columns=("place",),
    ),
    Case(
        "metadata.csv against the folders",
        folder(
            *both(""),
            more=table("metadata.csv", CSV, "rose/0.png,tulip,a", "rose/1.png,tulip,a", "tulip/0.png,rose,a"),
        ),
        {"train": {"tulip": 2, "rose": 1}},
        split="train",
        renamed={"rose": "tulip", "tulip": "rose"},
        left_out={"1.png": "named in no table"},
        columns=("place",),
    ),
    Case(
        "metadata.jsonl",
        folder(
            "0.png x1 = rose",
            "1.png x1 = tulip",
            more=write(
                "metadata.jsonl", '{"file_name": "0.png", "label": "rose"}\n{"file_name": "1.png", "label": "tulip"}\n'
            ),
        ),
        {"train": {"rose": 1, "tulip": 1}},
        split="train",
    ),
    Case(
        "metadata.parquet",
        folder(
            "0.png x1 = rose",
            "1.png x1 = tulip",
            more=lambda root: pd.DataFrame({"file_name": ["0.png", "1.png"], "label": ["rose", "tulip"]}).to_parquet(
                root / "metadata.parquet"
            ),
        ),
        {"train": {"rose": 1, "tulip": 1}},
        split="train",
    ),
    Case(
        "train.csv and test.csv beside folders of images",
        folder(
            "images/#.png x2 = rose",
            "images/t#.png x2 = tulip",
            more=all_of(
                table("train.csv", "filename;Label", "0.png;rose", "t0.png;tulip"),
                table("test.csv", "filename;Label", "1.png;rose", "t1.png;tulip"),
            ),
        ),
        {"train": {"rose": 1, "tulip": 1}, "test": {"rose": 1, "tulip": 1}},
    ),
    Case(
        "a column split",
        folder(
            "#.png x4 = rose",
            "t#.png x4 = tulip",
            more=table(
                "labels.csv",
                "file_name,label,split",
                *(
                    f"{p}{n}.png,{flower},{split}"
                    for p, flower in (("", "rose"), ("t", "tulip"))
                    for n, split in enumerate(["train", "train", "train", "val"])
                ),
            ),
        ),
        {"train": {"rose": 3, "tulip": 3}, "validation": {"rose": 1, "tulip": 1}},
        columns=("split",),
    ),
    *(
        Case(
            f"a column split beside class folders, {what}",
            folder(*both("", count=4), more=table("splits.csv", "file_name,split", *lines)),
            {"train": {"rose": 3, "tulip": 3}, "validation": {"rose": 1, "tulip": 1}},
            note="splits are those of table 'splits.csv'",
        )
        for what, lines in (
            ("of all images", [f"{flower}/{n}.png,{s}" for flower in BOTH for n, s in enumerate(IN_SPLITS)]),
            ("of those to evaluate on", [f"{flower}/3.png,val" for flower in BOTH]),
        )
    ),
    *(
        Case(
            f"a column split against the folders, {what}",
            folder(*both("train/"), *both("test/"), more=table("list.csv", header, *lines)),
            error="train/rose/0.png' lies in the folder of split 'train', but a column 'split' says 'test': make them",
        )
        for what, header, lines in (
            ("with labels", "file_name,label,split", ["train/rose/0.png,rose,Test", "train/tulip/0.png,tulip,train"]),
            ("without labels", "file_name,split", ["train/rose/0.png,testing"]),
        )
    ),
    Case(
        "a column split that agrees with the folders",
        folder(*both("train/"), *both("val/"), more=table("list.csv", "file_name,split", "val/rose/0.png,Validation")),
        {"train": ROSES_AND_TULIPS, "validation": ROSES_AND_TULIPS},
    ),
    Case(
        "two tables that divide differently",
        folder(
            *both(""),
            more=all_of(
                table("a.csv", "file_name,split", "rose/0.png,train"),
                table("b.csv", "file_name,split", "rose/0.png,val"),
            ),
        ),
        error="columns 'split' say both 'train' and 'validation' of .*rose/0.png': make them agree",
    ),
    Case(
        "two columns of one name",
        folder(*both(""), more=table("metadata.csv", "file_name,label,label", "rose/0.png,rose,tulip")),
        error="metadata.csv' has 2 columns called 'label': keep one",
        split="train",
    ),
    Case(
        "a second column of images",
        folder(
            "0.png x1 = rose",
            "1.png x1 = tulip",
            more=table("metadata.csv", "file_name,label,image", "0.png,rose,a", "1.png,tulip,b"),
        ),
        {"train": {"rose": 1, "tulip": 1}},
        split="train",
        left_out={"column 'image' of a table": "there is another of its name"},
    ),
    Case(
        "a folder of CSV",
        all_of(
            folder("far/#.png x2 = rose", "far/t#.png x2 = tulip"),
            table("data/train.csv", "file_name,label", "../far/0.png,rose", "../far/t0.png,tulip"),
            table("data/val.csv", "file_name,label", "../far/1.png,rose", "../far/t1.png,tulip"),
        ),
        {"train": {"rose": 1, "tulip": 1}, "validation": {"rose": 1, "tulip": 1}},
        dataset="data",
    ),
    Case(
        "numbers with zeros before them",
        folder(
            "0.png x1 = rose",
            "1.png x1 = tulip",
            more=table("metadata.csv", "file_name,label", "0.png,007", "1.png,008"),
        ),
        {"train": {"007": 1, "008": 1}},
        split="train",
        renamed={"rose": "007", "tulip": "008"},
    ),
    Case(
        "a row without a label",
        folder(
            "0.png x1 = rose",
            "1.png x1 = tulip",
            more=table("metadata.csv", "file_name,label", "0.png,rose", "1.png,"),
        ),
        error="row 1 of split 'train' has no label in column 'label'",
        split="train",
    ),
    Case(
        "a row whose image is missing",
        folder("0.png x1 = rose", more=table("metadata.csv", "file_name,label", "0.png,rose", "1.png,tulip")),
        error="row 1 of .*metadata.csv' names '1.png', which is no image",
        split="train",
    ),
    Case(
        "an image in two rows",
        folder("0.png x1 = rose", more=table("metadata.csv", "file_name,label", "0.png,rose", "0.png,tulip")),
        error="rows 0 and 1 of .*metadata.csv' name the same image",
        split="train",
    ),
    Case(
        "a row of another length",
        folder("0.png x1 = rose", more=table("metadata.csv", "file_name,label", "0.png,rose,red")),
        error="line 2 of .*metadata.csv' has 3 fields, the header 2",
        split="train",
    ),
    Case(
        "metadata.csv without file names",
        folder(*both(""), more=table("metadata.csv", "id,label", "1,rose")),
        error="metadata.csv' has no column of image files: call it file_name",
        split="train",
    ),
    Case(
        "another table",
        folder(*both("", count=4), more=table("prices.csv", "flower,price", "rose,1")),
        ALL,
        split="train",
        left_out={"prices.csv": "table without a column of image files"},
    ),
    Case(
        "a table in another encoding",
        folder(*both(""), more=write("metadata.csv", "file_name,label\nb\xe9.png,rose\n".encode("latin-1"))),
        error="metadata.csv' is no text in UTF-8",
        split="train",
    ),
    Case(
        "label_column in a table",
        folder(*both(""), more=table("metadata.csv", "file_name,kind", "rose/0.png,rose", "tulip/0.png,tulip")),
        {"train": {"rose": 1, "tulip": 1}},
        options={"label_column": "kind"},
        split="train",
        left_out={"1.png": "named in no table"},
    ),
    Case(
        "image_column in a table",
        folder(
            "0.png x1 = rose",
            "1.png x1 = tulip",
            more=table("metadata.csv", "picture,label", "0.png,rose", "1.png,tulip"),
        ),
        {"train": {"rose": 1, "tulip": 1}},
        options={"image_column": "picture"},
        split="train",
    ),
    Case(
        "image_column of no table",
        folder(*both("")),
        error="the data has no column 'picture': set image_column to one of image, label",
        options={"image_column": "picture"},
        split="train",
    ),
    Case(
        "absolute paths in a table, and a link to the folder",
        all_of(folder(*both("real/")), absolute_paths, linked("real", "again")),
        {"train": ROSES_AND_TULIPS},
        dataset="again",
        split="train",
    ),
]

FILES_OF_TABLES = [*TABLES, *BESIDE]
