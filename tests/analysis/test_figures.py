"""What is drawn: colours of patches, scales, numbers in heat maps, frames of animations."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf.analysis import AnalysisError, analyze_subspaces, visual_maps
from dna_hf.analysis.drawing import COLOURS, overlay, pictures
from dna_hf.analysis.figures import FigureRow, Panel, contact_sheet, map_figure, save_figure
from dna_hf.analysis.maps_callback import SaveAttentionMaps
from dna_hf.analysis.report_figures import (
    accuracy_figure,
    histogram_figure,
    negative_scales,
    read_run,
    scale_figure,
    sensitivity_figure,
)
from dna_hf.analysis.video_figures import GAP, STRIP, overlay_frames, write_gif, write_mp4
from tests.kit.models import HEADS, LAYERS, images, tiny_vit
from tests.kit.seeing import bright_patches, seek_brightness
from tests.kit.videos import decode_everything, needs_encoder


pytest.importorskip("matplotlib", reason="matplotlib is not installed")
GREY = np.full((8, 12, 3), 128, dtype=np.uint8)
# of a grey picture that nothing lies over
PALE = round(255 * (1 - 0.6 * (1 - 128 / 255)))


def test_patches_get_the_colour_of_their_sign():
    values = np.array([[1.0, 0.0, -2.0], [0.0, 0.0, 4.0]])
    for colours, (positive, negative) in COLOURS.items():
        drawn = overlay(GREY, values, scale=2.0, colours=colours, opacity=1.0)
        assert drawn.shape == GREY.shape and drawn.dtype == np.uint8
        half = np.round((PALE + np.array(positive)) / 2)
        assert np.abs(drawn[:4, :4] - half).max() <= 1
        assert (drawn[:4, 4:8] == PALE).all()
        assert (drawn[:4, 8:] == negative).all() and (drawn[4:, 8:] == positive).all()


def test_colours_are_told_apart_without_red_and_green():
    # lightness of the pairs differs from the grey between them, and blue from what is not blue
    for positive, negative in COLOURS.values():
        assert np.dot(positive, (0.299, 0.587, 0.114)) < 160 > np.dot(negative, (0.299, 0.587, 0.114))
        assert abs(positive[2] - negative[2]) > 100


def test_pictures_undo_the_processor():
    processor = ViTImageProcessorPil(size={"height": 6, "width": 6}, image_mean=[0.2, 0.5, 0.7], image_std=[0.3] * 3)
    picture = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    pixels = processor([Image.fromarray(picture)], return_tensors="pt")["pixel_values"]
    assert np.array_equal(pictures(pixels, processor)[0], picture)


def drawn_images(figure):
    return [axes.images[0].get_array() for axes in figure.axes if axes.images and axes.get_label() != "<colorbar>"]


def test_a_row_shares_a_scale_and_its_bar_says_so():
    rows = [
        FigureRow("one", GREY, [Panel("a", np.array([[1.0, -3.0]])), Panel("b", np.array([[6.0, 0.0]]))]),
        FigureRow("two", GREY, [Panel("a", np.array([[0.1, 0.0]])), Panel("b", np.array([[0.0, 0.2]]))]),
    ]
    figure = map_figure(rows, "of the test", unit="parts")
    found = drawn_images(figure)
    assert len(found) == 6
    assert np.array_equal(found[0], GREY) and np.array_equal(found[1], overlay(GREY, rows[0].panels[0].values, 6.0))
    assert np.array_equal(found[5], overlay(GREY, rows[1].panels[1].values, 0.2))
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert [bar.get_ylim() for bar in bars] == [(-6.0, 6.0), (-0.2, 0.2)]
    titles = [axes.get_title() for axes in figure.axes if axes not in bars]
    assert titles == ["image", "a", "b", "", "", ""] and figure.get_suptitle() == "of the test"
    assert [text.get_text() for text in figure.legends[0].texts] == ["positive branch", "negative branch"]


def test_one_branch_has_one_colour_in_the_legend():
    figure = map_figure([FigureRow("", GREY, [Panel("a", np.eye(2))])], legend=("attention", ""))
    assert [text.get_text() for text in figure.legends[0].texts] == ["attention"]
    assert figure.axes[-1].get_ylim() == (0.0, 1.0)


def test_files_of_a_figure(tmp_path):
    rows = [FigureRow("row", GREY, [Panel("panel", np.eye(2))])]
    for ending in ("png", "svg"):
        first, second = (save_figure(map_figure(rows, "title"), tmp_path / f"{n}.{ending}") for n in (1, 2))
        assert first.read_bytes() == second.read_bytes()
    assert ">panel</text>" in first.read_text() and Image.open(tmp_path / "1.png").size[0] > 300


def test_a_contact_sheet_has_a_row_per_map():
    frames = np.arange(20, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(4, 2).repeat(3, 3)
    values = np.arange(20.0)[:, None, None] * np.ones((1, 2, 2))
    figure = contact_sheet(frames, [("up", values), ("down", -values)], max_frames=3)
    found = drawn_images(figure)
    assert len(found) == 9 and [int(frame[0, 0, 0]) for frame in found[:3]] == [0, 10, 19]
    assert np.array_equal(found[4], overlay(frames[10], values[10], 19.0))
    assert np.array_equal(found[8], overlay(frames[19], -values[19], 19.0))
    assert [figure.axes[n].get_title() for n in range(3)] == ["frame 0", "frame 10", "frame 19"]


def moving():
    frames = (255 * bright_patches([(0, 0), (1, 1), (2, 2)], 3, 3, size=4)).movedim(1, -1).numpy().astype(np.uint8)
    values = np.zeros((3, 3, 3))
    values[range(3), range(3), range(3)] = (1.0, 2.0, -4.0)
    return frames, values


def test_an_animation_shows_every_frame_beside_its_maps(tmp_path):
    frames, values = moving()
    joined = overlay_frames(frames, [("map", values)], min_height=20, opacity=1.0)
    assert joined.shape == (3, STRIP + 24, 48 + GAP, 3)
    assert np.array_equal(joined[1, STRIP:, :24], frames[1].repeat(2, 0).repeat(2, 1))
    # all frames share a scale
    beside = joined[2, STRIP:, 24 + GAP :]
    assert (beside[20, 20] == COLOURS["red-blue"][1]).all()
    assert (joined[0, STRIP:, 24 + GAP :][4, 4] != COLOURS["red-blue"][0]).any()
    with Image.open(write_gif(joined, tmp_path / "a.gif", fps=4)) as gif:
        assert gif.n_frames == 3 and gif.info["duration"] == 250
        gif.seek(2)
        assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - joined[2]).max() < 40


def test_an_animation_as_video(tmp_path):
    needs_encoder("libx264")
    frames, values = moving()
    joined = overlay_frames(frames, [("map", values)], min_height=96)
    decoded = decode_everything(write_mp4(joined, tmp_path / "a.mp4"))
    assert len(decoded) == 3 and decoded[0].shape == joined[0].shape
    assert np.abs(np.stack(decoded).astype(int) - joined).mean() < 8


@pytest.fixture(scope="module")
def reports():
    batch = [{"pixel_values": images(4)}]
    return {name: analyze_subspaces(tiny_vit(name), batch, k=3) for name in ("softmax", "differential", "dna")}


def test_histograms_show_what_each_model_has(reports):
    figure = histogram_figure(reports, ["positive_entropy", "output_cosine"])
    first, second = figure.axes
    assert first.get_xlabel() == "entropy of the positive map"
    pooled = reports["dna"].overall()["space"]
    for axes, statistic, models in ((first, "positive_entropy", 3), (second, "output_cosine", 2)):
        lines = axes.get_lines()
        assert len(lines) == models
        assert lines[-1].get_xdata()[0] == pytest.approx(pooled[statistic].mean()[0])
        outlines = [patch for patch in axes.patches if not patch.get_fill()]
        assert len(outlines) == models
        assert outlines[-1].get_data().values.sum() == pytest.approx(1)
    assert len([axes for axes in histogram_figure(reports).axes if axes.get_visible()]) == 9
    with pytest.raises(AnalysisError, match="no statistic 'mean': choose among negative_intruders"):
        histogram_figure(reports, ["mean"])
    with pytest.raises(AnalysisError, match="no model attends over 'time'"):
        histogram_figure(reports, axis="time")


def test_sensitivity_shows_the_mean_counts(reports):
    figure = sensitivity_figure(reports)
    assert [axes.get_title() for axes in figure.axes[:2]] == ["differential", "dna"]
    counts = np.array([layer.sensitivity()["negative"] for layer in reports["dna"].layers])
    assert np.allclose(figure.axes[1].images[0].get_array(), counts.mean((0, 1)))
    with pytest.raises(AnalysisError, match="no model has two branches"):
        sensitivity_figure({"softmax": reports["softmax"]})


def test_alpha_by_layer_and_head():
    model = tiny_vit()
    expected = np.stack([layer.attention.negative_scale.detach().numpy() for layer in model.dna_vit.layers])
    scales = negative_scales(model)
    assert scales.shape == (LAYERS, HEADS) and np.array_equal(scales, expected)
    figure = scale_figure({"dna": scales, "differential": negative_scales(tiny_vit("differential"))})
    assert np.array_equal(figure.axes[0].images[0].get_array(), expected)
    assert figure.axes[0].texts[1].get_text() == f"{expected[0, 1]:.2f}"
    with pytest.raises(AnalysisError, match="softmax attention has no scale"):
        negative_scales(tiny_vit("softmax"))


def test_accuracy_against_alpha(tmp_path):
    log = [{"epoch": 1.0, "eval_top1": 0.25}, {"epoch": 1.0, "loss": 2.0}, {"epoch": 2.0, "eval_top1": 0.5}]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    assert read_run(tmp_path).alpha is None
    with (tmp_path / "negative_scale.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("epoch", "layer", "head", "value"))
        for epoch in (1, 2, 3):
            writer.writerows(
                (epoch, layer, head, epoch + 0.1 * layer + 0.01 * head) for layer in (0, 1) for head in (0, 1)
            )
    run = read_run(tmp_path)
    assert run.epochs.tolist() == [1, 2] and run.accuracy.tolist() == [0.25, 0.5]
    assert run.alpha[1].tolist() == [[2.0, 2.01], [2.1, 2.11]]
    left, middle, right = accuracy_figure({"run": run}).axes
    assert left.get_lines()[0].get_ydata().tolist() == [25, 50]
    assert np.allclose(right.get_lines()[0].get_xdata(), [1.055, 2.055])
    for content in ("{", '{"log_history": []}'):
        (tmp_path / "trainer_state.json").write_text(content)
        with pytest.raises(AnalysisError, match="cannot read the log|has no eval_top1"):
            read_run(tmp_path)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(AnalysisError, match=r"not installed: pip install 'dna-hf\[figures\]'"):
        map_figure([FigureRow("", GREY, [Panel("", np.eye(2))])])
    with pytest.raises(AnalysisError, match="not installed"):
        SaveAttentionMaps(images(1), None)


def test_what_cannot_be_drawn():
    with pytest.raises(AnalysisError, match="nothing to draw"):
        map_figure([])
    with pytest.raises(AnalysisError, match="unknown colours 'green': choose red-blue or orange-purple"):
        overlay(GREY, np.eye(2), 1.0, "green")


class Losses(TrainerCallback):
    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.values += [logs["loss"]] if "loss" in logs else []


def test_maps_of_fixed_images_are_saved_every_epoch(tmp_path):
    processor = ViTImageProcessorPil(size={"height": 12, "width": 12})
    data = [{"pixel_values": picture, "labels": n % 2} for n, picture in enumerate(images(8))]

    def train(folder, *callbacks):
        losses = Losses()
        arguments = TrainingArguments(
            str(folder), num_train_epochs=1, per_device_train_batch_size=4, logging_steps=1, report_to=[], use_cpu=True
        )
        model = tiny_vit(hidden_dropout_prob=0.2)
        Trainer(model=model, args=arguments, train_dataset=data, callbacks=[losses, *callbacks]).train()
        return losses.values

    watched = train(tmp_path / "watched", SaveAttentionMaps(images(2), processor))
    saved = sorted(path.name for path in (tmp_path / "watched" / "attention_maps").iterdir())
    assert saved == ["epoch_00.png", "epoch_01.png"]
    # looking changes nothing
    assert watched == train(tmp_path / "unwatched")


def test_brightness_is_where_the_colour_is():
    picture = bright_patches([(1, 2)], 3, 3)
    (maps,) = visual_maps(seek_brightness(tiny_vit()), {"pixel_values": picture}, layers=[0])
    seen = (255 * picture[0]).movedim(0, -1).to(torch.uint8).numpy()
    drawn = overlay(seen, maps.heat().drawn("positive")[0], maps.heat().drawn("positive").max(), opacity=1.0)
    red = (drawn == COLOURS["red-blue"][0]).all(-1)
    assert red[4:8, 8:].all() and red.sum() == 16
