"""Section `peft`: LoRA of classifiers from the command line, with alpha and the head beside it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageClassification

from dna_hf.models.attention_variants import DenoisingAttention
from dna_hf.records.checkpoint_records import read_training
from dna_hf.records.digest import weights_digest
from dna_hf.training import classification as training
from dna_hf.training.config_file import run_config
from dna_hf.training.errors import ConfigurationError
from tests.kit.command_line import run_cli
from tests.kit.training import SECTIONS, Interrupted, StopAfter, tiny_run


peft = pytest.importorskip("peft")

STEPS = {"max_steps": 6, "save_steps": 3, "logging_steps": 1, "learning_rate": 1e-2, "eval_strategy": "no"}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A finished run to start from."""
    folder = tmp_path_factory.mktemp("lora") / "base"
    training.train_classifier(tiny_run(folder, max_steps=2, save_strategy="no", eval_strategy="no"))
    return folder


@pytest.fixture(scope="module")
def adapter(base):
    """The finished run of an adapter."""
    training.train_classifier(lora_run(base, base.parent / "adapter"))
    return base.parent / "adapter"


def lora_run(base, folder, **options):
    return tiny_run(folder, **{"checkpoint": str(base), "r": 2} | STEPS | options)


def refusal(result):
    """The one sentence that a command ended with."""
    assert result.returncode == 2 and "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def test_updates_head_and_alpha_are_trained(base, adapter):
    before = load_file(base / "model.safetensors")
    saved = load_file(adapter / "adapter_model.safetensors")
    offsets = [tensor for name, tensor in saved.items() if name.endswith("adapted_negative_scale.offset")]
    assert len(offsets) == 2 and all(tensor.all() for tensor in offsets)
    assert {name.rpartition("classifier.")[2] for name in saved if "classifier" in name} == {"weight", "bias"}
    updates = {name.split(".lora_")[0].rpartition(".")[2] for name in saved if ".lora_" in name}
    assert updates == {"q_pos_proj", "q_neg_proj", "k_proj", "v_pos_proj", "v_neg_proj", "o_proj"}
    assert len(saved) == 2 * 2 * len(updates) + len(offsets) + 2
    # what was logged is alpha as it took effect
    last = (adapter / "negative_scale.csv").read_text().splitlines()[-1].split(",")
    own = before["dna_vit.layers.1.attention.negative_scale"]
    assert float(last[3]) == pytest.approx(float(own[1] + offsets[1][1]), abs=1e-6)


def test_merged_it_is_a_checkpoint_like_any_other(adapter, tmp_path):
    merged = tmp_path / "merged"
    result = run_cli("merge", adapter, "--output-dir", merged)
    assert result.returncode == 0, result.stderr
    command = ("evaluate", merged, "--max_eval_samples", 20, "--output", tmp_path / "figures.json")
    assert run_cli(*command).returncode == 0
    figures = json.loads((tmp_path / "figures.json").read_text())["metrics"]
    printed = json.loads((adapter / "eval_results.json").read_text())
    assert figures["top1"] == printed["eval_top1"]
    assert figures["loss"] == pytest.approx(printed["eval_loss"], abs=1e-5)

    model = AutoModelForImageClassification.from_pretrained(merged)
    record = read_training(merged)
    assert record.weights == weights_digest(model.state_dict())
    assert record.settings["peft"] == {"r": 2}
    assert set(load_file(merged / "model.safetensors")) == set(model.state_dict())


def test_plain_peft_loads_it(base, adapter):
    config = AutoModelForImageClassification.from_pretrained(base).config
    model = peft.PeftModel.from_pretrained(
        AutoModelForImageClassification.from_pretrained(base, config=config), str(adapter)
    )
    saved = load_file(adapter / "adapter_model.safetensors")
    state = peft.get_peft_model_state_dict(model)
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)


def test_a_stopped_run_continues_bit_for_bit(base, adapter, tmp_path, monkeypatch):
    run = lora_run(base, tmp_path / "run")
    with monkeypatch.context() as context:
        original = training.build_trainer

        def stopping(*arguments):
            trainer = original(*arguments)
            trainer.add_callback(StopAfter(4))
            return trainer

        context.setattr(training, "build_trainer", stopping)
        with pytest.raises(Interrupted):
            training.train_classifier(run)
    with pytest.raises(ConfigurationError, match="peft.r = 2, not 4"):
        training.train_classifier(lora_run(base, tmp_path / "run", r=4), resume=True)
    (tmp_path / "run" / "checkpoint-3" / "adapter_model.safetensors").rename(tmp_path / "kept")
    with pytest.raises(ConfigurationError, match=r"adapter_model.safetensors' is missing"):
        training.train_classifier(run, resume=True)
    (tmp_path / "kept").rename(tmp_path / "run" / "checkpoint-3" / "adapter_model.safetensors")
    training.train_classifier(run, resume=True)
    straight, resumed = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "run"))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_what_is_named_is_what_is_trained(base, tmp_path):
    options = {
        "target_modules": ["q_neg_proj"],
        "modules_to_save": ["classifier"],
        "lora_alpha": 4,
        "lora_dropout": 0.1,
    }
    training.train_classifier(lora_run(base, tmp_path / "run", max_steps=1, save_strategy="no", **options))
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert len(saved) == 2 * 2 + 2 and not any("negative_scale" in name for name in saved)
    written = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert (written["r"], written["lora_alpha"], written["lora_dropout"]) == (2, 4.0, 0.1)
    assert written["base_model_name_or_path"] == str(base)


@pytest.mark.parametrize("variant", ["softmax", "differential"])
def test_variants_without_alpha_train_the_rest(tmp_path, variant):
    base = tmp_path / "base"
    options = {"max_steps": 1, "save_strategy": "no", "eval_strategy": "no", "attention_variant": variant}
    training.train_classifier(tiny_run(base, **options))
    training.train_classifier(lora_run(base, tmp_path / "run", **options))
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    assert any("classifier" in name for name in saved) and any(".lora_B." in name for name in saved)
    with pytest.raises(ConfigurationError, match="no module 'negative_scale': it has classifier"):
        training.train_classifier(lora_run(base, tmp_path / "no", modules_to_save=["negative_scale"], **options))


REFUSED = {
    "fresh model": ({"checkpoint": None}, "a fresh model has none: set model.checkpoint"),
    "no rank": ({"r": None, "lora_alpha": 4}, "peft.lora_alpha has no effect without r"),
    "rank of nothing": ({"r": 0}, "r must be at least 1, got 0"),
    "no scale": ({"lora_alpha": 0}, "lora_alpha must be positive"),
    "all dropped": ({"lora_dropout": 1}, "lora_dropout in \\[0, 1\\)"),
    "unknown target": ({"target_modules": ["q_proj"]}, "no linear layer 'q_proj': it has .*q_neg_proj"),
    "no target": ({"target_modules": []}, "peft.target_modules: the model has no linear layer ''"),
    "unknown module": ({"modules_to_save": ["classifier", "norm"]}, "no module 'norm': it has classifier"),
    "no head": ({"modules_to_save": ["negative_scale"]}, "the head, 'classifier', is new"),
    "average": ({"ema_decay": 0.9}, "does not go with training.ema_decay"),
    "frozen encoder": ({"freeze": "encoder"}, "does not go with training.freeze"),
    "publishing": ({"push_to_hub": True}, "publish what dna-hf merge makes"),
}


@pytest.mark.parametrize(("options", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused_before_anything_is_written(base, tmp_path, options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        training.train_classifier(lora_run(base, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_a_video_llm_has_keys_of_its_own():
    sections = {"model": {"model_type": "dna_video_llama3", "checkpoint": "x"}, "peft": {"r": 2}}
    with pytest.raises(ConfigurationError, match="'r' in section 'peft': it is a key of dna_vit and dna_timesformer"):
        run_config(sections, {"output_dir": "unused"})


def test_other_commands_name_merge(adapter, tmp_path):
    for words in (("evaluate", adapter), ("predict", adapter, "x.png"), ("publish", adapter, "me/model")):
        assert refusal(run_cli(*words)).endswith("holds an adapter, no whole model: make one of it with dna-hf merge.")
    # as PEFT alone writes it
    shutil.copytree(adapter, tmp_path / "plain", ignore=shutil.ignore_patterns("dna_adapter.json", "config.json"))
    assert "dna-hf merge" in refusal(run_cli("evaluate", tmp_path / "plain"))


def damaged(adapter, folder, change):
    shutil.copytree(adapter, folder)
    change(folder)
    return folder


def _without_a_tensor(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    del tensors[next(name for name in tensors if ".lora_" in name)]
    save_file(tensors, folder / "adapter_model.safetensors")


def _with_another_tensor(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {"base_model.model.x": torch.zeros(1)}, folder / "adapter_model.safetensors")


def _cut(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = {
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), "is damaged"),
    "cut": (_cut, "is damaged"),
    "a tensor less": (_without_a_tensor, "1 tensors differ"),
    "a tensor more": (_with_another_tensor, "1 tensors differ"),
    "no settings": (lambda folder: (folder / "adapter_config.json").unlink(), "is damaged"),
    "no processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json"),
}


@pytest.mark.parametrize(("change", "sentence"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_adapter_is_not_merged(adapter, tmp_path, change, sentence):
    folder = damaged(adapter, tmp_path / "adapter", change)
    assert sentence in refusal(run_cli("merge", folder, "--output-dir", tmp_path / "merged"))
    assert not (tmp_path / "merged").exists() or not any((tmp_path / "merged").iterdir())


def test_it_is_not_merged_into_other_weights(adapter, tmp_path):
    options = {"max_steps": 1, "save_strategy": "no", "eval_strategy": "no", "seed": 1}
    training.train_classifier(tiny_run(tmp_path / "other", **options))
    result = run_cli("merge", adapter, "--output-dir", tmp_path / "merged", "--base", tmp_path / "other")
    assert "was trained on other weights than those of" in refusal(result)
    result = run_cli("merge", adapter, "--output-dir", tmp_path / "merged", "--base", tmp_path / "nothing")
    assert "needs its base" in refusal(result)


@pytest.mark.parametrize("has_head", [True, False])
def test_the_head_may_be_for_other_classes(base, tmp_path, has_head):
    """A base of ten classes or of none, an adapter of two."""
    from PIL import Image

    if not has_head:
        AutoModel.from_pretrained(base).save_pretrained(tmp_path / "body")
        shutil.copy(base / "preprocessor_config.json", tmp_path / "body")
        base = tmp_path / "body"
    for number, name in enumerate(("dark", "bright")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for copy in range(6):
            Image.new("L", (28, 28), 60 + 120 * number + copy).save(tmp_path / "data" / name / f"{copy}.png")
    options = {"dataset": str(tmp_path / "data"), "validation_fraction": 0.34, "max_steps": 2, "save_strategy": "no"}
    training.train_classifier(lora_run(base, tmp_path / "run", **options))
    assert json.loads((tmp_path / "run" / "config.json").read_text())["architectures"] == [
        "DnAViTForImageClassification"
    ]
    assert run_cli("merge", tmp_path / "run", "--output-dir", tmp_path / "merged").returncode == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert list(model.config.label2id) == ["bright", "dark"]


def test_videos_have_it_too(tmp_path):
    sections = {
        "model": {
            "model_type": "dna_timesformer",
            "num_frames": 3,
            "image_size": 16,
            "patch_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
        "data": {"max_train_samples": 8, "max_eval_samples": 8},
        "training": SECTIONS["training"] | {"max_steps": 2, "save_strategy": "no", "eval_strategy": "no"},
    }
    training.train_classifier(run_config(sections, {"output_dir": str(tmp_path / "base")}))
    overrides = {"output_dir": str(tmp_path / "run"), "checkpoint": str(tmp_path / "base"), "r": 2}
    training.train_classifier(run_config(sections, overrides))
    saved = load_file(tmp_path / "run" / "adapter_model.safetensors")
    # attention over time and over space
    assert sum(name.endswith("adapted_negative_scale.offset") for name in saved) == 2
    assert run_cli("merge", tmp_path / "run", "--output-dir", tmp_path / "merged").returncode == 0
    assert run_cli("evaluate", tmp_path / "merged", "--max_eval_samples", 8).returncode == 0


def test_alpha_begins_where_the_base_has_it(base):
    from dna_hf.training.lora import add_lora

    run = lora_run(base, "unused")
    model = AutoModelForImageClassification.from_pretrained(base)
    own = [module.branch_scale() for module in model.modules() if isinstance(module, DenoisingAttention)]
    pixel_values = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        before = model.eval()(pixel_values=pixel_values).logits
        adapted = add_lora(model, run).eval()
        assert torch.equal(adapted(pixel_values=pixel_values).logits, before)
    now = [module.branch_scale() for module in adapted.modules() if isinstance(module, DenoisingAttention)]
    assert all(map(torch.equal, own, now))
