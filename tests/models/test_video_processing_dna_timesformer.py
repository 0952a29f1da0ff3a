"""The video processor: what it makes of videos of every kind, and that it travels with a checkpoint."""

import json

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dna_hf.models import DnATimesformerVideoProcessor
from tests.kit.fresh_process import run_fresh
from tests.kit.models import action_model
from tests.kit.processors import assert_settings
from tests.kit.videos import number_of, numbered, write_video
from tests.kit.web import served


FRAMES = 40
PLAIN = {"do_resize": False, "do_center_crop": False, "do_normalize": False, "do_rescale": False}

# of 40 frames, of each of 4 parts one at a quarter and one at three quarters
CLIPS_OF_TWO = [[2, 12, 22, 32], [7, 17, 27, 37]]


def processor(**options):
    return DnATimesformerVideoProcessor(**options)


def small(**options):
    return processor(
        **{"num_frames": 4, "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}} | options
    )


def noise(height, width, count=4):
    """A video, smooth enough that resizing it is no matter of single pixels."""
    values = torch.rand(count, 3, height // 4, width // 4, generator=torch.Generator().manual_seed(0))
    pixels = functional.interpolate(values, (height, width), mode="bicubic").clamp(0, 1) * 255
    return pixels.round().byte().permute(0, 2, 3, 1).numpy()


def numbers(pixel_values):
    """What the frames (frames, channels, height, width) of one view say, with values up to 255."""
    return [number_of(frame.permute(1, 2, 0).numpy()) for frame in pixel_values]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", FRAMES, options={"g": "12"})


# --- pixels


def test_shape_and_type(path):
    features = processor()(str(path))
    assert list(features) == ["pixel_values"]
    assert features.pixel_values.shape == (1, 8, 3, 224, 224) and features.pixel_values.dtype == torch.float32
    assert processor()([str(path)] * 3, num_frames=5).pixel_values.shape == (3, 5, 3, 224, 224)
    assert small()(str(path), return_tensors="np").pixel_values.shape == (1, 4, 3, 32, 32)


@pytest.mark.parametrize(("height", "width"), [(60, 80), (80, 60), (48, 48), (20, 28), (120, 200), (33, 47)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resizing_agrees_with_pillow_and_torch(height, width, mode):
    # within levels that bicubic resizing does not overshoot: Pillow clips after each direction, too
    video = np.random.default_rng(0).integers(90, 166, (2, height, width, 3), dtype=np.uint8)
    resample = Image.Resampling[mode.upper()]
    result = small(**PLAIN | {"do_resize": True}, num_frames=2, resample=resample)(video).pixel_values[0]
    size = (32, int(32 * width / height)) if height <= width else (int(32 * height / width), 32)
    assert tuple(result.shape) == (2, 3, *size)
    frames = torch.from_numpy(video).permute(0, 3, 1, 2).float()
    oracle = functional.interpolate(frames, size, mode=mode, antialias=True, align_corners=False)
    assert torch.equal(result, oracle if (height, width) != size else frames)
    pillow = np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], resample)) for frame in video])
    difference = result - torch.from_numpy(pillow).permute(0, 3, 1, 2)
    # Pillow rounds after each direction
    assert difference.abs().max() <= 1.5


def test_to_a_given_height_and_width():
    result = small(size={"height": 24, "width": 40}, do_center_crop=False)(noise(60, 80))
    assert result.pixel_values.shape == (1, 4, 3, 24, 40)


def test_normalisation_is_exact():
    video = noise(32, 32)
    frames = torch.from_numpy(video).permute(0, 3, 1, 2).float()
    result = small()(video).pixel_values[0]
    assert torch.equal(result, (frames * (1 / 255) - 0.45) / 0.225)
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    result = small(image_mean=mean, image_std=std)(video).pixel_values[0]
    expected = (frames / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert (result - expected).abs().max() < 1e-6
    assert torch.equal(small(do_normalize=False, do_rescale=False)(video).pixel_values[0], frames)
    assert torch.equal(small(do_normalize=False)(video).pixel_values[0], frames * (1 / 255))


@pytest.mark.parametrize(
    ("shape", "corners"),
    {
        "wide": ((32, 50), [(0, 0), (0, 9), (0, 18)]),
        "tall": ((50, 32), [(0, 0), (9, 0), (18, 0)]),
        "square": ((32, 32), [(0, 0)] * 3),
        "larger": ((40, 60), [(4, 0), (4, 14), (4, 28)]),
    }.values(),
    ids=["wide", "tall", "square", "larger"],
)
def test_crops(shape, corners):
    video = np.random.default_rng(0).integers(0, 256, (4, *shape, 3), dtype=np.uint8)
    options = PLAIN | {"do_center_crop": True}
    frames = torch.from_numpy(video).permute(0, 3, 1, 2).float()
    expected = [frames[..., top : top + 32, left : left + 32] for top, left in corners]
    views = small(num_crops=3, **options)(video).pixel_values
    assert torch.equal(views, torch.stack(expected))
    assert torch.equal(small(**options)(video).pixel_values, expected[1][None])


def test_views_follow_each_other_crops_first(path):
    wide = [numbered(k, 48, 96) for k in range(FRAMES)]
    options = {"num_clips": 2, "num_crops": 3}
    views = small(**options)(np.stack(wide)).pixel_values
    assert views.shape == (6, 4, 3, 32, 32)
    one_clip = [small(num_crops=3)(np.stack([wide[k] for k in chosen])).pixel_values for chosen in CLIPS_OF_TWO]
    assert torch.equal(views, torch.cat(one_clip))
    two = small(**options)([np.stack(wide), np.stack(wide[::-1])]).pixel_values
    assert torch.equal(two[:6], views) and not torch.equal(two[6:], views)


# --- inputs


def test_inputs_of_every_kind_are_equal(path):
    frames = np.stack([numbered(k) for k in range(FRAMES)])
    tensor = torch.from_numpy(frames).permute(0, 3, 1, 2)
    expected = small()(frames).pixel_values
    same = {
        "tensor, channels in front": tensor,
        "tensor, channels behind": torch.from_numpy(frames),
        "array, channels in front": tensor.numpy(),
        "pictures": [Image.fromarray(frame) for frame in frames],
        "list of arrays": [frames],
        "grey": frames[..., :1],
        "grey, channels in front": tensor[:, :1],
    }
    for name, video in same.items():
        assert torch.equal(small()(video).pixel_values, expected), name
    assert torch.equal(small()([frames, frames]).pixel_values, expected.repeat(2, 1, 1, 1, 1))
    pictures = [Image.fromarray(frame) for frame in frames]
    assert torch.equal(small()([pictures, pictures]).pixel_values, expected.repeat(2, 1, 1, 1, 1))
    # compressed, the same but for a few levels
    assert (small()(str(path)).pixel_values - expected).abs().mean() < 0.1


def test_paths_of_every_kind_are_equal(path):
    expected = small()(str(path)).pixel_values
    for video in (path, [path], [str(path)], (path,), [[str(path)]]):
        assert torch.equal(small()(video).pixel_values, expected), video
    assert torch.equal(small()([path, str(path)]).pixel_values, expected.repeat(2, 1, 1, 1, 1))


def test_urls(path, monkeypatch):
    with served(path.parent) as address:
        with pytest.raises(ValueError, match=r"^cannot read video 'http.*\.mp4': HF_HUB_OFFLINE=1 forbids downloads"):
            small()(address + path.name)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        assert torch.equal(small()(address + path.name).pixel_values, small()(str(path)).pixel_values)
        with pytest.raises(Exception, match="404"):
            small()(address + "missing.mp4")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [5, 15, 25, 35]),
        ({"num_frames": 2}, [10, 30]),
        ({"sampling": "centered", "sampling_rate": 2}, [17, 19, 21, 23]),
        ({"sampling": "released", "sampling_rate": 4}, [0, 5, 10, 15]),
        ({"sampling": "released"}, [0, 39, 39, 39]),
        ({"do_sample_frames": False}, list(range(FRAMES))),
    ],
)
def test_chosen_frames_of_files_and_arrays(path, options, expected):
    for video in (str(path), np.stack([numbered(k) for k in range(FRAMES)])):
        assert numbers(small(**PLAIN | options)(video).pixel_values[0]) == expected
        assert numbers(small(**PLAIN)(video, **options).pixel_values[0]) == expected


def test_fewer_frames_than_wanted_are_shown_more_than_once():
    video = np.stack([numbered(k) for k in range(3)])
    assert numbers(small(**PLAIN, num_frames=8)(video).pixel_values[0]) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_options_of_a_call_do_not_last():
    process, video = small(), noise(48, 64)
    before = process.to_dict()
    first = process(video).pixel_values
    assert process(video, num_crops=3, num_frames=2, do_normalize=False).pixel_values.shape == (3, 2, 3, 32, 32)
    assert process.to_dict() == before and torch.equal(process(video).pixel_values, first)


def test_videos_of_different_shapes():
    videos = [noise(32, 40), noise(32, 48)]
    assert small()(videos).pixel_values.shape == (2, 4, 3, 32, 32)
    with pytest.raises(ValueError, match="different shapes"):
        small(do_center_crop=False)(videos)
    views = small(do_center_crop=False)(videos, return_tensors=None).pixel_values
    assert [tuple(view.shape) for view in views] == [(4, 3, 32, 40), (4, 3, 32, 48)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frame": 4}, "no option 'num_frame'"),
        ({"num_crops": 2}, "num_crops must be 1 or 3"),
        ({"sampling": "dense"}, "unknown sampling 'dense'"),
        ({"sampling": "random"}, "needs a random number"),
        ({"resample": Image.Resampling.NEAREST}, "must be bilinear or bicubic"),
        ({"do_resize": False, "crop_size": {"height": 64, "width": 64}}, "48x64 pixels cannot be cropped to 64x64"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small()(noise(48, 64), **options)


def test_a_video_that_cannot_be_read_is_named(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "bad.mp4").write_text("not a video")
    with pytest.raises(ValueError, match=r"cannot read video '.*bad\.mp4': .+[^.]\.$"):
        small()(str(tmp_path / "bad.mp4"))
    with pytest.raises(ValueError, match="no such file"):
        small()(str(tmp_path / "missing.mp4"))


@pytest.mark.parametrize("shape", [(4, 32, 32, 2), (4, 32, 32, 4), (0, 32, 32, 3)])
def test_what_is_no_video_is_refused(shape):
    with pytest.raises(ValueError, match="a video is"):
        small()(np.zeros(shape, np.uint8))


# --- saving and loading


def test_saved_and_loaded(tmp_path):
    options = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6], "num_frames": 6, "sampling": "centered"}
    options |= {"sampling_rate": 3, "num_clips": 2, "num_crops": 3, "resample": Image.Resampling.BICUBIC}
    saved = small(**options)
    saved.save_pretrained(tmp_path)
    loaded = DnATimesformerVideoProcessor.from_pretrained(tmp_path)
    assert_settings(loaded, options)
    video = noise(48, 64, 40)
    assert torch.equal(loaded(video).pixel_values, saved(video).pixel_values)
    assert DnATimesformerVideoProcessor.from_pretrained(tmp_path, num_frames=3).num_frames == 3
    assert {path.name for path in tmp_path.glob("*.py")} == {
        "processing_options.py",
        "video_decoding.py",
        "video_metadata.py",
        "video_processing_dna_timesformer.py",
    }


# arguments: the checkpoint, a video, what is expected of both
LOAD = """
import json
import sys
import torch
from transformers import AutoModelForVideoClassification, pipeline
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

checkpoint, video, expected = sys.argv[1:]
expected = json.load(open(expected))
processor = AutoVideoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
assert type(processor).__name__ == "DnATimesformerVideoProcessor"
assert type(processor).__module__.startswith("transformers_modules."), type(processor)
pixel_values = processor(video).pixel_values
assert abs(pixel_values.double().sum().item() - expected["sum"]) < 1e-3
assert processor(video, num_frames=2).pixel_values.shape[1] == 2
model = AutoModelForVideoClassification.from_pretrained(checkpoint, trust_remote_code=True).eval()
with torch.no_grad():
    probabilities = model(pixel_values).logits.softmax(-1)[0]
classify = pipeline("video-classification", checkpoint, trust_remote_code=True, device="cpu")
for result, name in ((classify(video), "scores"), (classify(video, num_frames=2), "scores of two")):
    found = {entry["label"]: entry["score"] for entry in result}
    assert found.keys() == expected[name].keys()
    assert all(abs(found[label] - score) < 1e-5 for label, score in expected[name].items()), (found, expected[name])
for index, label in model.config.id2label.items():
    assert abs(probabilities[index].item() - expected["scores"][label]) < 1e-5
assert len(classify([video, video])) == 2
assert "dna_hf" not in sys.modules and "torchvision" not in sys.modules
print("all is well")
"""


def test_description():
    assert DnATimesformerVideoProcessor(sampling="released", num_crops=3).describe() == {
        "frames": "8, released: of a window at the start, one in 32 at 30 per second",
        "size": "resized to short side 224 pixels, 224x224 cut from the centre",
        "normalisation": "mean 0.45, 0.45, 0.45; standard deviation 0.225, 0.225, 0.225",
        "views": "1 over time x 3 over space",
    }
    plain = small(**PLAIN, do_sample_frames=False).describe()
    assert (plain["frames"], plain["size"], plain["normalisation"]) == ("all", "as it is", "none")
    squashed = small(size={"height": 20, "width": 30}, do_center_crop=False).describe()
    assert squashed["size"] == "resized to 20x30 pixels"


def test_checkpoint_classifies_videos_without_the_package(tmp_path, path):
    model = action_model(image_size=32, num_frames=4)
    config = model.config
    checkpoint = tmp_path / "checkpoint"
    model.save_pretrained(checkpoint)
    small().save_pretrained(checkpoint)

    def scores(**options):
        with torch.no_grad():
            probabilities = model(small()(str(path), **options).pixel_values).logits.softmax(-1)[0]
        return {config.id2label[index]: value for index, value in enumerate(probabilities.tolist())}

    expected = {
        "sum": small()(str(path)).pixel_values.double().sum().item(),
        "scores": scores(),
        "scores of two": scores(num_frames=2),
    }
    assert max(abs(expected["scores"][label] - expected["scores of two"][label]) for label in config.label2id) > 1e-4
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    printed = run_fresh(LOAD, tmp_path, checkpoint, path, tmp_path / "expected.json")
    assert "all is well" in printed
