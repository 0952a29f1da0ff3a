"""Model cards: every figure is counted, read from the weights, or a measurement of them; nothing else is a result."""

import dataclasses
import hashlib
import json
import random
import re

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session
from transformers import ViTConfig, ViTModel

from dna_hf import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnATimesformerModel,
    DnAViTBackbone,
    DnAViTConfig,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
)
from dna_hf.data.provenance import DatasetRecord
from dna_hf.hub import PublishError
from dna_hf.hub.model_card import (
    FORMULAS,
    METRIC_NAMES,
    VARIANT_NAMES,
    ReportedFigure,
    model_card,
    scale_statistics,
)
from dna_hf.models import DnATimesformerVideoProcessor, DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel
from dna_hf.models.attention_variants import ATTENTION_VARIANTS
from dna_hf.records.checkpoint_records import (
    Measurement,
    RecordError,
    TrainingRun,
    read_measurements,
    record_measurement,
)
from dna_hf.records.complexity import count_macs
from dna_hf.records.digest import weights_digest
from tests.kit.fake_hub import FakeHub, check_card


SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 48, "num_labels": 3}
COMMON = {"seed": None, "date": "2026-01-02T03:04:05+00:00"}
COMMON |= {"environment": {"machine": "a machine", "torch": "2.13", "transformers": "5.23"}}
FLOWERS = DatasetRecord("someone/flowers", config="small", revision="0" * 40, licence="mit", splits={"test": 20})
REPORTED = ReportedFigure("ImageNet-1k validation, top-1", "77.31 %", "table 9 of the paper")
METRICS = {"top1": 0.4375, "top5": 0.90625, "mean_class_accuracy": 0.40625, "loss": 1.640625}
REPO = "user/flowers"


def build(model_class=DnAViTForImageClassification, **changes):
    """A small model whose alphas all differ."""
    torch.manual_seed(0)
    model = model_class(DnAViTConfig(**SIZES | changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".negative_scale"):
                parameter.normal_()
    return model


def on_meta(model_class=DnAViTForImageClassification, **changes):
    with torch.device("meta"):
        return model_class(DnAViTConfig(**SIZES | changes)).eval()


def measurement(model, **changes):
    facts = {"task": "image-classification", "dataset": FLOWERS, "split": "test", "metrics": dict(METRICS)}
    facts |= {"samples": 20, "command": "dna-hf evaluate x --record", "weights": weights_digest(model.state_dict())}
    return Measurement(**COMMON | facts | changes).signed()


def training_run(model, **changes):
    facts = {"dataset": dataclasses.replace(FLOWERS, splits={"train": 40}), "seconds": 12.4, "processes": 1}
    facts |= {"settings": {"model": {"hidden_size": 32}, "training": {"learning_rate": 0.001}}, "seed": 7}
    facts |= {"command": "dna-hf train flowers.yaml", "weights": weights_digest(model.state_dict())}
    return TrainingRun(**COMMON | facts | changes).signed()


@pytest.fixture(scope="module")
def model():
    return build()


def section(card, title):
    """The text under a heading of the second level; empty where there is none."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", card.text, re.DOTALL | re.MULTILINE)
    return found[1] if found else ""


def row(card, name):
    """A cell of the table of facts."""
    return re.search(rf"^\| {re.escape(name)} \| (.*) \|$", card.text, re.MULTILINE)[1]


def claims(card):
    """Figures in the metadata: (data set, split, name, value)."""
    data = ModelCard(str(card)).data.to_dict()
    return [
        (result["dataset"]["type"], result["dataset"]["split"], metric["name"], metric["value"])
        for index in data.get("model-index", [])
        for result in index["results"]
        for metric in result["metrics"]
    ]


def assert_well_formed(card):
    """What every card obeys, whatever it is about."""
    text = str(card)
    assert check_card(text) == ([], [])
    assert not re.search(r"\{%|%\}|\{#|Undefined|\bNone\b", text), text
    assert "{{" not in text.replace("title     = {{DnA}", "")
    assert not re.search(r"\n[ \t]*\n[ \t]*\n[ \t]*\n", text)
    assert text.count("```") % 2 == 0
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    expected = ["Load it", "Measured", "Training", "Intended use and limits", "Licence and citation"]
    assert [heading for heading in headings if heading != "Reported, not measured here"] == expected
    for heading in expected:
        assert section(card, heading).strip()


# --- figures that were measured


def test_metadata_and_text_state_the_measurements(model):
    on_validation = measurement(model, split="validation", metrics={"top1": 0.125, "loss": 2.5}, seed=3)
    card = model_card(model, REPO, measurements=[measurement(model), on_validation], licence="apache-2.0")
    assert_well_formed(card)
    expected = [("someone/flowers", "test", METRIC_NAMES[name][1], value) for name, value in METRICS.items()]
    expected += [
        ("someone/flowers", "validation", METRIC_NAMES[name][1], on_validation.metrics[name])
        for name in ("top1", "loss")
    ]
    assert sorted(claims(card)) == sorted(expected)
    measured = section(card, "Measured")
    for text in ("| Top-1 accuracy | 43.75 % |", "| Top-5 accuracy | 90.62 % |", "| Cross entropy | 1.6406 |"):
        assert text in measured
    assert "| Top-1 accuracy | 12.50 % |" in measured and "split `validation`" in measured and "seed 3" in measured
    for text in (
        "20 samples",
        "`someone/flowers` (small)",
        "`dna-hf evaluate x --record`",
        "2026-01-02",
        "torch 2.13",
    ):
        assert text in measured
    assert "Nothing was measured" not in str(card)


def test_metadata(model):
    data = model_card(
        model, REPO, measurements=[measurement(model)], training=training_run(model), licence="apache-2.0"
    ).data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "image-classification",
    )
    assert {"denoising-attention", "vision", "image-classification"} <= set(data.tags)
    assert data.datasets == ["someone/flowers"] and data.model_name == "flowers"
    assert {result.dataset_revision for result in data.eval_results} == {"0" * 40}


@pytest.mark.skipif(huggingface_hub.__version__ < "2", reason="older clients validate at huggingface.co only")
@pytest.mark.parametrize("measured", [False, True])
def test_the_hub_accepts_the_metadata(monkeypatch, model, measured):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with FakeHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        close_session()
        model_card(model, REPO, measurements=[measurement(model)] if measured else []).validate()
        assert hub.requests == [("POST", "/api/validate-yaml")]
    close_session()


# --- figures that are counted or read from the weights


def expected_macs(model):
    """Multiply-accumulates of all matrix products of one image, from the shapes of the weights."""
    config = model.config
    patches = (config.image_size // config.patch_size) ** 2
    tokens = patches + 1
    macs = 0
    for name, value in model.state_dict().items():
        shape = np.asarray(value).shape
        if "patch_embeddings" in name and len(shape) == 4:
            macs += np.prod(shape) * patches
        elif name == "classifier.weight":
            macs += np.prod(shape)
        elif ".layers." in f".{name}" and len(shape) == 2:
            macs += np.prod(shape) * tokens
    # in units of tokens x tokens x width: a map from queries and keys, and its product with the values
    products = {"dna": 4, "dna_shared_value": 4, "softmax": 2, "cog": 2, "differential": 3}
    return macs + config.num_hidden_layers * products[config.attention_variant] * tokens**2 * config.hidden_size


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
@pytest.mark.parametrize("model_class", [DnAViTForImageClassification, DnAViTModel])
def test_counts_of_every_variant(variant, model_class):
    model = build(model_class, attention_variant=variant)
    card = model_card(model, REPO, measurements=[measurement(model)])
    assert_well_formed(card)
    parameters = sum(np.asarray(value).size for value in model.state_dict().values())
    assert row(card, "parameters") == f"{parameters:,} (counted)"
    assert count_macs(type(model), model.config) == expected_macs(model)
    assert row(card, "multiply-accumulates per image") == f"{expected_macs(model) / 1e6:.2f} M (counted)"
    assert row(card, "image size") == "32x32 pixels" and row(card, "width") == "32" and row(card, "layers") == "2"
    assert row(card, "throughput") == "not measured"
    assert VARIANT_NAMES[variant] in card.text and FORMULAS[variant] in card.text
    assert ("negative_attentions" in card.text) == (variant not in ("softmax", "cog"))
    assert ("| α over" in card.text) == variant.startswith("dna")


def test_formulas_and_names_cover_the_variants():
    assert FORMULAS.keys() == VARIANT_NAMES.keys() == ATTENTION_VARIANTS.keys()
    assert all(FORMULAS.values()) and len(set(VARIANT_NAMES.values())) == len(VARIANT_NAMES)


def test_counting_does_not_change_the_model(model):
    before = weights_digest(model.state_dict())
    implementation = model.config._attn_implementation
    model_card(model, REPO)
    assert weights_digest(model.state_dict()) == before and model.device.type == "cpu"
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("variant", ["dna", "dna_shared_value"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_alpha_is_read_from_the_weights(variant, dtype):
    model = build(attention_variant=variant).to(dtype)
    alpha = np.concatenate([layer.attention.negative_scale.detach().float().numpy() for layer in model.dna_vit.layers])
    alpha = alpha.astype(np.float64)
    statistics = scale_statistics(model)
    for name in ("mean", "std", "min", "max"):
        assert statistics[name] == pytest.approx(getattr(alpha, name)(), rel=1e-9)
    assert statistics["count"] == len(alpha) == 8
    assert row(model_card(model, REPO), "α over all layers and heads") == (
        f"mean {alpha.mean():.4f}, standard deviation {alpha.std():.4f}, from {alpha.min():.4f} to {alpha.max():.4f} "
        "(8 values, read from the weights)"
    )


@pytest.mark.parametrize("variant", sorted(set(ATTENTION_VARIANTS) - {"dna", "dna_shared_value"}))
def test_variants_without_alpha(variant):
    assert scale_statistics(build(attention_variant=variant)) is None


# --- cards without measurements


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_a_card_without_weights(variant):
    card = model_card(on_meta(attention_variant=variant), REPO, reported=[REPORTED])
    assert_well_formed(card)
    assert "It comes with no weights" in card.text and section(card, "Measured").strip().startswith("Nothing")
    assert "weights" in section(card, "Training")
    assert claims(card) == []
    twin = build(attention_variant=variant)
    assert row(card, "parameters") == f"{twin.num_parameters():,} (counted)"
    assert row(card, "multiply-accumulates per image") == row(model_card(twin, REPO), "multiply-accumulates per image")
    if variant.startswith("dna"):
        assert row(card, "α over all layers and heads") == "not measured"


def test_nothing_was_measured(model):
    card = model_card(model, REPO)
    assert_well_formed(card)
    assert section(card, "Measured").strip() == "Nothing was measured on these weights."
    assert "not recorded" in section(card, "Training") and "Reported" not in card.text
    assert "model-index" not in str(card) and card.data.eval_results is None
    assert "no licence was stated" in section(card, "Licence and citation") and "license" not in card.data.to_dict()


def test_unknown_licences_are_said_to_be_unknown(model):
    unknown = DatasetRecord("flowers")
    card = model_card(
        model,
        REPO,
        measurements=[measurement(model, dataset=unknown)],
        training=training_run(model, dataset=dataclasses.replace(unknown, splits={"train": None})),
    )
    assert_well_formed(card)
    for title in ("Measured", "Training"):
        assert "Licence of the data: not recorded" in section(card, title)
    assert "streamed samples of split `train`" in section(card, "Training")
    # a data set that is none of the Hub's is not named there
    assert card.data.datasets is None


def test_training_and_origin(model):
    run = training_run(model, started_from="someone/start", processes=2)
    card = model_card(model, REPO, training=run, converted_from="google/vit")
    assert_well_formed(card)
    text = section(card, "Training")
    for part in (
        "`someone/start`",
        "`dna-hf train flowers.yaml` took 12 s on 2 processes",
        "seed 7",
        "someone/flowers",
    ):
        assert part in text
    assert "```yaml\nmodel:\n  hidden_size: 32\ntraining:\n  learning_rate: 0.001\n```" in text
    assert card.data.base_model == "someone/start"
    converted = model_card(model, REPO, converted_from="google/vit")
    assert converted.data.base_model == "google/vit" and "Converted from `google/vit`" in converted.text
    assert_well_formed(converted)


@pytest.mark.parametrize("revision", [None, "content-0123456789ab"])
@pytest.mark.parametrize(
    ("model_class", "auto_class", "task"),
    [
        (DnAViTForImageClassification, "pipeline", "image-classification"),
        (DnAViTModel, "AutoModel", "image-feature-extraction"),
        (DnAViTBackbone, "AutoBackbone", "image-feature-extraction"),
        (DnAViTForMaskedImageModeling, "AutoModelForMaskedImageModeling", None),
    ],
)
def test_the_snippet_loads_this_repository(model_class, auto_class, task, revision):
    card = model_card(build(model_class), REPO, revision=revision)
    assert_well_formed(card)
    snippet = re.search(r"```python\n(.*?)```", section(card, "Load it"), re.DOTALL)[1]
    compile(snippet, "snippet", "exec")
    assert f'"{REPO}"' in snippet and f'"{revision or "<commit>"}"' in snippet and auto_class in snippet
    assert "trust_remote_code=True" in snippet
    assert card.data.pipeline_tag == task and f"({model_class.__name__})" in card.text


def test_a_model_of_another_kind_has_no_card():
    """A part of a video language model, and transformers' own ViT."""
    config = DnAVideoLlama3VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    native = ViTConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    for model in (DnAVideoLlama3VisionModel(config), ViTModel(native)):
        with pytest.raises(PublishError, match=f"no card for a {type(model).__name__}: it is no whole DnA model"):
            model_card(model, REPO)


# --- videos


def build_video(model_class=DnATimesformerForVideoClassification, **changes):
    torch.manual_seed(0)
    return model_class(DnATimesformerConfig(**SIZES | {"num_frames": 3} | changes)).eval()


def expected_video_macs(model):
    """Multiply-accumulates of all matrix products of one video under divided attention, from the shapes."""
    config = model.config
    patches = (config.image_size // config.patch_size) ** 2
    frames, width = config.num_frames, config.hidden_size
    macs = 0
    for name, value in model.state_dict().items():
        shape = value.shape
        if "patch_embeddings" in name and len(shape) == 4:
            macs += shape.numel() * patches * frames
        elif name == "classifier.weight":
            macs += shape.numel()
        elif ".layers." in f".{name}" and len(shape) == 2:
            over_space = ".attention." in name
            tokens = frames * (patches + 1) if over_space else frames * patches + (".mlp." in name)
            macs += shape.numel() * tokens
    products = {"dna": 4, "softmax": 2}[config.attention_variant]
    pairs = frames * (patches + 1) ** 2 + patches * frames**2
    return macs + config.num_hidden_layers * products * pairs * width


@pytest.mark.parametrize("variant", ["dna", "softmax"])
@pytest.mark.parametrize("model_class", [DnATimesformerForVideoClassification, DnATimesformerModel])
def test_card_of_a_video_model(model_class, variant):
    model = build_video(model_class, attention_variant=variant)
    processor = DnATimesformerVideoProcessor(num_frames=3, sampling="centered", sampling_rate=4, num_crops=3)
    views = "2 over time x 3 over space, probabilities averaged"
    record = measurement(model, task="video-classification", views=views)
    card = model_card(model, REPO, measurements=[record], processor=processor, revision="content-0123456789ab")
    assert_well_formed(card)
    is_classifier = model_class is DnATimesformerForVideoClassification
    assert card.data.pipeline_tag == ("video-classification" if is_classifier else None)
    assert "video transformer" in card.text and "image" not in section(card, "Intended use and limits")
    assert count_macs(model_class, model.config) == expected_video_macs(model)
    assert row(card, "multiply-accumulates per video") == f"{expected_video_macs(model) / 1e6:.2f} M (counted)"
    assert row(card, "attention") == "over time, then over space" and row(card, "frame size") == "32x32 pixels"
    assert "| frames | 3, centered: of a window in the middle, one in 4 at 30 per second |" in card.text
    assert f"split `test`, views of each: {views}:" in section(card, "Measured")
    snippets = re.findall(r"```python\n(.*?)```", section(card, "Load it"), re.DOTALL)
    assert len(snippets) == (2 if is_classifier else 1)
    for snippet in snippets:
        compile(snippet, "snippet", "exec")
        assert f'"{REPO}"' in snippet and '"content-0123456789ab"' in snippet and "trust_remote_code=True" in snippet
        assert "import AutoVideoProcessor" not in snippet or "video_processing_auto import" in snippet


def test_card_of_a_video_model_without_weights():
    with torch.device("meta"):
        model = build_video()
    card = model_card(model, REPO)
    assert_well_formed(card)
    assert "The video processor makes" not in card.text


def test_records_of_before_there_were_views_still_hold(tmp_path, model):
    record = measurement(model)
    content = dataclasses.asdict(record)
    del content["views"], content["unreadable"]
    (tmp_path / "measurements.json").write_text(json.dumps([content]))
    (found,) = read_measurements(tmp_path)
    assert found == record
    # the digest of everything but itself, as it was
    del content["digest"]
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    assert record.digest == hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(RecordError, match="changed by hand"):
        model_card(model, REPO, measurements=[forged(record, views="1 over time x 3 over space")])


# --- figures of others


@pytest.mark.parametrize("measured", [False, True])
def test_reported_figures_are_set_apart(model, measured):
    card = model_card(model, REPO, measurements=[measurement(model)] if measured else [], reported=[REPORTED])
    assert_well_formed(card)
    reported = section(card, "Reported, not measured here")
    assert "| ImageNet-1k validation, top-1 | 77.31 % | table 9 of the paper |" in reported
    assert "They are no result of this model" in reported
    assert card.text.count("77.31") == 1 and "77.31" not in str(card).replace(card.text, "")
    assert len(claims(card)) == (len(METRICS) if measured else 0)


# --- no card states an unmeasured figure as measured


def forged(record, **changes):
    """A record with its digest and other content."""
    return dataclasses.replace(record, **changes)


FORGERIES = {
    "of other weights": lambda model: measurement(build(negative_scale_init=0.1, num_labels=4)),
    "of the weights before one more step": lambda model: measurement(model, weights="0" * 64),
    "edited metric": lambda model: forged(measurement(model), metrics=METRICS | {"top1": 0.9931}),
    "added metric": lambda model: forged(measurement(model, metrics={"loss": 1.0}), metrics=METRICS),
    "unsigned": lambda model: forged(measurement(model), digest=""),
    "wrong digest": lambda model: forged(measurement(model), digest="0" * 64),
    "digest of another": lambda model: forged(
        measurement(model, metrics={"top1": 0.9931}), digest=measurement(model).digest
    ),
    "weights set to these": lambda model: forged(
        measurement(model, weights="0" * 64), weights=weights_digest(model.state_dict())
    ),
    "reported by others": lambda model: REPORTED,
    "training run": lambda model: training_run(model),
    "plain figures": lambda model: {"top1": 0.9931},
}


@pytest.mark.parametrize("name", FORGERIES)
@pytest.mark.parametrize("beside_a_true_one", [False, True])
def test_a_figure_that_was_not_measured_is_refused(model, name, beside_a_true_one):
    forgery = FORGERIES[name](model)
    records = [measurement(model), forgery] if beside_a_true_one else [forgery]
    with pytest.raises((RecordError, AttributeError, TypeError)) as caught:
        model_card(model, REPO, measurements=records)
    if isinstance(forgery, Measurement):
        assert caught.type is RecordError and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("weights", ["0" * 64, ""], ids=["of weights", "of no weights"])
def test_a_model_without_weights_has_no_measurements(model, weights):
    for records in (
        {"measurements": [measurement(model, weights=weights)]},
        {"training": training_run(model, weights=weights)},
    ):
        with pytest.raises(RecordError):
            model_card(on_meta(), REPO, **records)


def test_a_training_run_of_other_weights_is_refused(model):
    for run in (training_run(model, weights="0" * 64), forged(training_run(model), seconds=1.0)):
        with pytest.raises(RecordError):
            model_card(model, REPO, training=run)


def test_changing_one_weight_voids_the_measurements():
    model = build()
    record = measurement(model)
    model_card(model, REPO, measurements=[record])
    with torch.no_grad():
        model.classifier.bias[0].add_(1e-6)
    with pytest.raises(RecordError, match="other weights"):
        model_card(model, REPO, measurements=[record])


def leaves(value, path=()):
    """Paths to all values in nested dictionaries and lists."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))] or [path]
    return [path]


def edited(value, generator):
    """Another value of about the same kind."""
    if isinstance(value, bool) or value is None:
        return "set"
    if isinstance(value, int):
        return value + generator.choice([-1, 1, 1000])
    if isinstance(value, float):
        return generator.choice([value + 1e-9, -value, 0.9931, value * 2])
    if isinstance(value, str):
        position = generator.randrange(len(value) + 1)
        return value[:position] + generator.choice("0fx ") + value[position:]
    return {"more": 1}


def test_editing_any_single_field_of_a_stored_record_is_noticed(tmp_path, model):
    record_measurement(tmp_path, measurement(model))
    path = tmp_path / "measurements.json"
    original, generator = path.read_text(), random.Random(0)
    paths = leaves(json.loads(original)[0])
    assert len(paths) > 15
    for leaf in paths * 6:
        entries = json.loads(original)
        target = entries[0]
        for key in leaf[:-1]:
            target = target[key]
        # a count of none says as little as its absence
        if target[leaf[-1]] not in (None, 0) and generator.random() < 0.2:
            del target[leaf[-1]]
        else:
            target[leaf[-1]] = edited(target[leaf[-1]], generator)
        path.write_text(json.dumps(entries))
        with pytest.raises(RecordError):
            model_card(model, REPO, measurements=read_measurements(tmp_path))
            pytest.fail(f"{leaf} was edited: {path.read_text()}")
    path.write_text(original)
    assert len(claims(model_card(model, REPO, measurements=read_measurements(tmp_path)))) == len(METRICS)


def test_a_metric_without_a_name_on_the_hub_is_a_record_error_or_stated_under_its_own_name(model):
    record = measurement(model, metrics={"f1": 0.5})
    try:
        card = model_card(model, REPO, measurements=[record])
    except RecordError as error:
        assert "f1" in str(error)
    else:
        assert "f1" in section(card, "Measured")


def test_a_card_of_several_labels(model):
    several = build(problem_type="multi_label_classification", threshold=0.35)
    metrics = {"map": 0.9125, "f1_macro": 0.85, "f1_micro": 0.875, "loss": 0.21875}
    card = model_card(several, REPO, measurements=[measurement(several, metrics=metrics)])
    assert_well_formed(card)
    measured = section(card, "Measured")
    for cells in ("Mean average precision | 91.25 %", "Binary cross entropy | 0.2188", "mean over classes | 85.00 %"):
        assert cells in measured
    assert "op-1" not in str(card) and "accuracy" not in str(card)
    use = section(card, "Intended use and limits")
    assert "which of its 3 classes hold" in use and "above 0.35 (`threshold` in `config.json`)" in use
    kinds = {(result.metric_type, result.metric_name): result.metric_value for result in card.data.eval_results}
    assert kinds["mean_average_precision", "Mean average precision"] == 0.9125
    assert kinds["loss", "Binary cross entropy"] == 0.21875
    assert "one of these classes" in section(model_card(model, REPO), "Intended use and limits")


def test_a_card_of_a_regression():
    names = {"id2label": {0: "angle", 1: "height"}, "label2id": {"angle": 0, "height": 1}}
    numbers = build(problem_type="regression", num_labels=2, **names)
    metrics = {"r2": 0.8125, "mae": 3.5, "rmse": 4.25, "loss": 18.0625}
    card = model_card(numbers, REPO, measurements=[measurement(numbers, metrics=metrics)])
    assert_well_formed(card)
    for cells in ("R² | 0.8125", "Mean absolute error | 3.5000", "Mean square error | 18.0625"):
        assert cells in section(card, "Measured")
    use = section(card, "Intended use and limits")
    assert "numbers (`angle`, `height`) of images" in use and "classes" not in use and "op-1" not in str(card)


@pytest.mark.parametrize(
    ("problem_type", "scores"),
    [("multi_label_classification", ".logits.sigmoid().mean(0)"), ("regression", ".logits.mean(0)")],
)
def test_the_views_of_a_video_are_averaged_as_its_problem_says(problem_type, scores):
    assert scores in str(model_card(build_video(problem_type=problem_type), REPO))
