"""What a run draws and writes of itself, and tables of classes with the worst first."""

import csv

import numpy as np
import pytest
from PIL import Image

from dna_hf.evaluation.charts import draw_confusion, draw_curves, write_confusion
from dna_hf.evaluation.figures import ClassFigure, class_table, compute_figures
from dna_hf.whole_files import whole_file


def test_the_confusion_file_has_a_row_for_every_true_class(tmp_path):
    write_confusion(tmp_path / "deep" / "c.csv", ["a,b", "ü"], [[3, 1], [0, 2]])
    with (tmp_path / "deep" / "c.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [["true class", "a,b", "ü"], ["a,b", "3", "1"], ["ü", "0", "2"]]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["c.csv"]


@pytest.mark.parametrize("classes", [2, 40])
def test_a_confusion_matrix_is_drawn(classes, tmp_path):
    pytest.importorskip("matplotlib")
    # what looks like a formula, and is none
    names = [f"$x_{number}^{{ & <b> 花" for number in range(classes)]
    draw_confusion(tmp_path / "c.png", names, (np.eye(classes, dtype=int) + 1).tolist(), "test")
    with Image.open(tmp_path / "c.png") as picture:
        assert min(picture.size) > 250
        assert len(set(picture.convert("RGB").resize((64, 64)).get_flattened_data())) > 5


def test_curves_are_drawn_of_what_was_logged(tmp_path):
    pytest.importorskip("matplotlib")
    scale = {"negative_scale/mean": 0.5, "negative_scale/min": 0.4, "negative_scale/max": 0.6}
    history = [{"step": step, "loss": 1 / step, "learning_rate": 1e-3, **scale} for step in (1, 2, 3)]
    for name, log in {"whole": [*history, {"step": 3, "eval_loss": 0.5, "eval_top1": 0.9}], "none": []}.items():
        draw_curves(tmp_path / f"{name}.png", log, "top1", name)
    sizes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    # lines are there that an empty run does not have
    assert sizes["whole"] > sizes["none"] + 2000


def test_a_file_that_could_not_be_finished_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(KeyError), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
    with whole_file(path) as unfinished:
        unfinished.write_text("whole")
    assert path.read_text() == "whole" and list(tmp_path.iterdir()) == [path]


def test_a_link_is_followed_and_not_replaced(tmp_path):
    (tmp_path / "target").write_text("before")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with whole_file(tmp_path / "link") as path:
        path.write_text("after")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").read_text() == "after"


def test_of_few_classes_all_are_shown_and_the_worst_is_first():
    figures = [ClassFigure("good", 0.9, 10), ClassFigure("none", float("nan"), 0), ClassFigure("bad", 0.25, 4)]
    header, rows = class_table(figures, "videos")
    assert header == ("class, worst first", "videos", "accuracy", "95 % interval")
    assert [row[:3] for row in rows] == [("bad", "4", "25.0 %"), ("good", "10", "90.0 %"), ("none of none", "0", "")]
    # Wilson's score for 1 of 4 and 9 of 10, as in Newcombe (1998)
    assert [row[3] for row in rows] == ["4.6 to 69.9 %", "59.6 to 98.2 %", ""]


def test_of_many_classes_the_ten_worst_are_shown_and_the_others_counted():
    accuracies = np.random.default_rng(0).permutation(50) / 50
    figures = [ClassFigure(f"class {value:.2f}", float(value), 50) for value in accuracies]
    _, rows = class_table(figures, "images")
    assert [row[0] for row in rows[:10]] == [f"class {value / 50:.2f}" for value in range(10)]
    assert rows[10] == ("40 more classes", "2,000", "20.0 % or more", "")


def test_figures_as_rows_have_an_interval():
    logits = np.repeat(np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32), [81, 19], axis=0)
    rows = dict(compute_figures(logits, np.zeros(100, dtype=int)).rows("images"))
    assert rows["images"] == "100" and rows["top-1"] == "81.00 %"
    # of 81 of 100, from Wilson's formula by hand
    assert rows["95 % interval of top-1"] == "72.2 to 87.5 %"
    assert "left out, unreadable" not in rows
