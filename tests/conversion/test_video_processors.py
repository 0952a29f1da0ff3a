"""Converted video models preprocess as their source does, and work in transformers' pipeline without more."""

import json

import pytest
import torch
import yaml
from transformers import TimesformerConfig, TimesformerForVideoClassification, ViTConfig, ViTForImageClassification
from transformers.models.timesformer.video_processing_timesformer import TimesformerVideoProcessor
from transformers.models.videomae.image_processing_pil_videomae import VideoMAEImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from dna_hf import DnATimesformerConfig, DnATimesformerForVideoClassification, DnAViTConfig, DnAViTModel
from dna_hf.cli import main
from dna_hf.conversion import (
    ConversionError,
    convert_authors_checkpoint,
    export_authors_checkpoint,
    from_image_model,
    from_pretrained_softmax,
)
from dna_hf.kinds import VIDEO, load_processor
from dna_hf.models import DnATimesformerVideoProcessor
from tests.kit.fresh_process import run_fresh
from tests.kit.videos import numbered, write_video


SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 24}
LABELS = {"id2label": {0: "fall", 1: "walk"}, "label2id": {"fall": 0, "walk": 1}}
MEAN, STD = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
CODE = {
    *("attention_variants.py", "configuration_dna.py", "layers_dna.py"),
    *("configuration_dna_timesformer.py", "modeling_dna_timesformer.py"),
    *("processing_options.py", "video_decoding.py", "video_metadata.py", "video_processing_dna_timesformer.py"),
}


def native(folder, **preprocessing):
    """Save transformers' TimeSformer, and a `preprocessor_config.json` if there is something to put in it."""
    torch.manual_seed(0)
    TimesformerForVideoClassification(TimesformerConfig(**SIZES, **LABELS, num_frames=4)).save_pretrained(folder)
    if preprocessing:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    return folder


def authors(path, cfg=None, **changes):
    """Save a training checkpoint as the authors' code does, with a `cfg` that `yaml` writes."""
    torch.manual_seed(0)
    config = DnATimesformerConfig(**SIZES | {"num_frames": 8} | changes)
    export_authors_checkpoint(DnATimesformerForVideoClassification(config), path, architecture="timesformer")
    content = torch.load(path, weights_only=True)
    content.pop("cfg", None)
    if cfg is not None:
        content["cfg"] = cfg if isinstance(cfg, str) else yaml.safe_dump(cfg)
    torch.save(content, path)
    return path


def convert_authors(path):
    return convert_authors_checkpoint(path, architecture="timesformer").report


def refused(convert, *arguments, **options):
    """The one sentence with which a conversion is refused."""
    with pytest.raises(ConversionError) as caught:
        convert(*arguments, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1 and message.endswith(".")
    return message


def statistics(processor):
    """Mean and standard deviation, which some versions keep as tuples."""
    return list(processor.image_mean), list(processor.image_std)


# --- files of the authors' and of the original code


def test_released_numbers(tmp_path):
    report = convert_authors(authors(tmp_path / "weights.pyth", image_size=224, patch_size=32))
    processor = report.video_processor
    assert (processor.num_frames, processor.sampling, processor.sampling_rate) == (8, "released", 32)
    assert statistics(processor) == ([0.45] * 3, [0.225] * 3)
    assert processor.size == {"shortest_edge": 224} and processor.crop_size == {"height": 224, "width": 224}
    assert (processor.num_clips, processor.num_crops) == (1, 1)
    assert any("released configurations" in note for note in report.notes)
    # the frames that the released test takes of 300 and of 84
    (sampling,) = processor.samplings()
    assert sampling(300, 30) == [0, 36, 72, 109, 145, 182, 218, 255]
    assert sampling(84, 30) == [0, 36, 72, 83, 83, 83, 83, 83]


def test_numbers_of_the_cfg(tmp_path):
    data = {"NUM_FRAMES": 16, "SAMPLING_RATE": 4, "TEST_CROP_SIZE": 48, "MEAN": MEAN, "STD": STD}
    report = convert_authors(authors(tmp_path / "weights.pyth", {"DATA": data, "TRAIN": {"DATASET": "kinetics"}}))
    processor = report.video_processor
    assert (processor.num_frames, processor.sampling, processor.sampling_rate) == (16, "released", 4)
    assert statistics(processor) == (MEAN, STD)
    assert processor.size == {"shortest_edge": 48} and processor.crop_size == {"height": 48, "width": 48}
    assert any("the file's cfg" in note for note in report.notes)
    assert not any("not read" in note and "cfg" in note for note in report.notes)


def test_frames_of_something_something(tmp_path):
    cfg = {"DATA": {"NUM_FRAMES": 8}, "TRAIN": {"DATASET": "ssv2"}}
    assert convert_authors(authors(tmp_path / "weights.pyth", cfg)).video_processor.sampling == "uniform"


@pytest.mark.parametrize("cfg", ["x", "[a", "DATA: 3\n", "{}"])
def test_a_cfg_that_says_nothing(tmp_path, cfg):
    report = convert_authors(authors(tmp_path / "weights.pyth", cfg))
    assert report.video_processor.sampling_rate == 32 and report.video_processor.size == {"shortest_edge": 32}
    assert any("released configurations" in note for note in report.notes)


@pytest.mark.parametrize(
    ("key", "value"),
    [("MEAN", "grey"), ("STD", [1, 0, 1]), ("NUM_FRAMES", 0), ("SAMPLING_RATE", 1.5), ("TEST_CROP_SIZE", -3)],
)
def test_a_cfg_with_a_wrong_number(tmp_path, key, value):
    path = authors(tmp_path / "weights.pyth", {"DATA": {key: value}})
    assert f"cfg of {str(path)!r} is wrong" in refused(convert_authors, path)


# --- transformers' TimeSformer


@torch.no_grad()
def test_native_folder_preprocesses_as_transformers_does(tmp_path):
    source = native(
        tmp_path / "native",
        **{"image_processor_type": "VideoMAEImageProcessor", "size": {"shortest_edge": 40}, "resample": 2},
        **{"crop_size": {"height": 32, "width": 32}, "image_mean": MEAN, "image_std": STD},
    )
    model, report = from_pretrained_softmax(source, negative_init="zero")
    processor = report.video_processor
    assert (processor.num_frames, processor.sampling) == (4, "uniform") and report.image_processor is None
    assert any("spread over the whole video" in note for note in report.notes)
    frames = [numbered(number) for number in range(4)]
    expected = VideoMAEImageProcessorPil.from_pretrained(source)(frames, return_tensors="pt").pixel_values
    found = processor(torch.stack([torch.from_numpy(frame) for frame in frames])).pixel_values
    # PIL rounds what it resizes to whole levels
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01 / 255 / min(STD))
    logits = TimesformerForVideoClassification.from_pretrained(source).eval()(found).logits
    torch.testing.assert_close(model(found).logits, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["image_processor_type", "feature_extractor_type"])
def test_settings_of_old_files(tmp_path, kind):
    """One number as size, and what is left out is that of the class."""
    source = native(tmp_path / "native", **{kind: "VideoMAEFeatureExtractor", "size": 40, "crop_size": 36})
    processor = from_pretrained_softmax(source).report.video_processor
    assert processor.size == {"shortest_edge": 40} and processor.crop_size == {"height": 36, "width": 36}
    assert statistics(processor) == statistics(VideoMAEImageProcessorPil())


@pytest.mark.parametrize("from_folder", [True, False])
def test_without_a_file_normalisation_is_the_default_of_transformers(tmp_path, from_folder):
    folder = native(tmp_path / "native")
    source = folder if from_folder else TimesformerForVideoClassification(TimesformerConfig(**SIZES, num_frames=4))
    report = from_pretrained_softmax(source).report
    assert statistics(report.video_processor) == statistics(TimesformerVideoProcessor())
    # of the size that the model takes
    assert report.video_processor.crop_size == {"height": 32, "width": 32}
    assert report.video_processor.size == {"shortest_edge": 32}
    assert any("no preprocessor_config.json" in note and "TimesformerVideoProcessor" in note for note in report.notes)


def test_another_image_size_keeps_the_border(tmp_path):
    source = native(tmp_path / "native", size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    processor = from_pretrained_softmax(source, image_size=64).report.video_processor
    assert processor.size == {"shortest_edge": 80} and processor.crop_size == {"height": 64, "width": 64}
    processor = from_pretrained_softmax(source, image_size=(32, 64)).report.video_processor
    assert processor.size == {"shortest_edge": 80} and processor.crop_size == {"height": 32, "width": 64}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"longest_edge": 3}}, "size is {'longest_edge': 3}"),
        ({"size": 0}, "size is"),
        ({"crop_size": "big"}, "crop_size is 'big'"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is [0.5, 0.5], not three numbers"),
        ({"image_std": [0.5, 0.5, 0]}, "not three positive numbers"),
        ({"resample": 1}, "bilinear (2) or bicubic (3)"),
        ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ({"size": 16, "crop_size": 32}, "cannot be cropped to 32x32"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path, settings, message):
    source = native(tmp_path / "native", **settings)
    assert message in refused(from_pretrained_softmax, source)


@pytest.mark.parametrize("text", ["{", "[1]", "\udcff"])
def test_a_damaged_file_is_one_sentence(tmp_path, text):
    source = native(tmp_path / "native")
    (source / "preprocessor_config.json").write_text(text, errors="surrogateescape")
    assert "cannot read the preprocessing of" in refused(from_pretrained_softmax, source)


def test_a_model_of_one_channel_has_no_video_processor():
    model = TimesformerForVideoClassification(TimesformerConfig(**SIZES, num_channels=1))
    report = from_pretrained_softmax(model).report
    assert report.video_processor is None and any("1 channels" in note for note in report.notes)


# --- image models


@pytest.mark.auto_image_processor
def test_an_image_model_passes_its_preprocessing_on(tmp_path):
    ViTForImageClassification(ViTConfig(**SIZES)).save_pretrained(tmp_path / "vit")
    images = ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=MEAN, image_std=STD, resample=3)
    images.save_pretrained(tmp_path / "vit")
    model, report = from_image_model(tmp_path / "vit", num_frames=5)
    processor = report.video_processor
    assert (processor.num_frames, processor.sampling, report.image_processor) == (5, "uniform", None)
    frame = numbered(3, 48, 48)
    expected = images(frame, return_tensors="pt").pixel_values
    found = processor(torch.from_numpy(frame).expand(5, -1, -1, -1)).pixel_values
    assert found.shape == (1, 5, 3, 32, 32)
    torch.testing.assert_close(found[:, 2], expected, rtol=0, atol=1.01 / 255 / min(STD))
    # frames that are not square keep their proportions
    assert processor(torch.zeros(5, 3, 64, 128)).pixel_values.shape == (1, 5, 3, 32, 32)
    larger = from_image_model(tmp_path / "vit", image_size=64).report.video_processor
    assert larger.size == {"shortest_edge": 64} and larger.crop_size == {"height": 64, "width": 64}


@pytest.mark.auto_image_processor
def test_a_dna_vit_passes_its_preprocessing_on(tmp_path):
    DnAViTModel(DnAViTConfig(**SIZES)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=MEAN).save_pretrained(tmp_path / "vit")
    for source in (tmp_path / "vit", DnAViTModel.from_pretrained(tmp_path / "vit")):
        assert statistics(from_image_model(source).report.video_processor)[0] == MEAN
    report = from_image_model(DnAViTModel(DnAViTConfig(**SIZES))).report
    assert report.video_processor is None
    assert any("--image-processor" in note for note in report.notes)


# --- the command line


@pytest.mark.auto_image_processor
def test_image_processor_of_another_folder(tmp_path, capsys):
    DnAViTModel(DnAViTConfig(**SIZES)).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 32, "width": 32}, image_mean=MEAN).save_pretrained(tmp_path / "other")
    words = ["--num-frames", "4", "--image-processor", str(tmp_path / "other")]
    assert main(["convert", str(tmp_path / "vit"), str(tmp_path / "out"), *words]) == 0
    assert "mean 0.1, 0.2, 0.3" in capsys.readouterr().out
    assert statistics(load_processor(str(tmp_path / "out"), VIDEO))[0] == MEAN
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()


# arguments: folders of checkpoints, a video
CLASSIFY = """
import json
from transformers import pipeline

for folder in sys.argv[1:-1]:
    classify = pipeline("video-classification", folder, trust_remote_code=True, device="cpu")
    assert type(classify.model).__module__.startswith("transformers_modules.")
    print(json.dumps({entry["label"]: entry["score"] for entry in classify(sys.argv[-1])}))
assert "dna_hf" not in sys.modules and "torchvision" not in sys.modules
"""


@torch.no_grad()
def test_converted_folders_classify_videos_without_the_package(tmp_path, capsys):
    """Through the command line, then by `predict` and in a process without the package."""
    clip = write_video(tmp_path / "clip.mp4", 40)
    sources = {
        "native": native(tmp_path / "source", size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        "authors": authors(tmp_path / "weights.pyth", num_labels=2),
    }
    expected, printed = [], []
    for name, source in sources.items():
        out = tmp_path / name
        assert main(["convert", str(source), str(out)]) == 0
        output = capsys.readouterr().out
        assert "video processor, frames" in output and "mean 0.4" in output
        assert {path.name for path in out.glob("*.py")} == CODE
        model = DnATimesformerForVideoClassification.from_pretrained(out).eval()
        processor = DnATimesformerVideoProcessor.from_pretrained(out)
        assert json.loads((out / "conversion.json").read_text())["video_processor"] == processor.describe()
        probabilities = model(processor(clip).pixel_values).logits.softmax(dim=1)[0].tolist()
        expected.append({model.config.id2label[index]: value for index, value in enumerate(probabilities)})
        assert main(["predict", str(out), str(clip)]) == 0
        printed.append(capsys.readouterr().out)
    found = run_fresh(CLASSIFY, tmp_path, *(tmp_path / name for name in sources), clip)
    for line, scores, table in zip(found.splitlines(), expected, printed, strict=True):
        assert json.loads(line) == pytest.approx(scores, abs=1e-5)
        for label, score in scores.items():
            assert label in table and f"{100 * score:.1f} %" in table
