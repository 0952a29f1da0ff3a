"""Fine-tuning a video LLM: what is trained and how fast, the loss, and the adapter that comes of it."""

import json
import shutil
import socket
import subprocess
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from dna_hf import DnAVideoLlama3Config
from dna_hf.cli import main
from dna_hf.data.conversation_arguments import ConversationDataArguments
from dna_hf.data.conversations import (
    IGNORED,
    ConversationCollator,
    ConversationDataset,
    read_conversations,
)
from dna_hf.data.errors import DataError
from dna_hf.records.checkpoint_records import read_training
from dna_hf.records.digest import weights_digest
from dna_hf.training import video_llm
from dna_hf.training.adapter import (
    load_adapted,
    read_description,
    read_tensors,
    trained_tensors,
)
from dna_hf.training.arguments import VideoLLMTrainingArguments
from dna_hf.training.config_file import run_config
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.memory import estimate_memory
from dna_hf.training.merge import merge_adapter
from dna_hf.training.parameter_groups import add_lora, check_optimizer, freeze_all_but, group_of
from dna_hf.training.video_llm import build_trainer, load_conversations, train_video_llm
from dna_hf.training.yaml_file import read_sections
from tests.kit import headers
from tests.kit.paths import ROOT
from tests.kit.training import Interrupted, StopAfter
from tests.kit.video_llm_training import (
    RATES,
    micro_batch,
    ready_to_train,
    reasons_in,
    save_base,
    save_conversations,
    save_gradients_of_one_step,
    tiny_model,
    tiny_processor,
    tiny_run,
    tiny_sections,
)


RECIPE = ROOT / "configs" / "video_llm_viscop.yaml"


# how the run goes that most tests look at: its loss falls, so that by what is turned around here step 3 is the best
TRAINED = {
    "gradient_checkpointing": True,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 3,
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A whole checkpoint."""
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A file of eight conversations about pictures."""
    return save_conversations(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(base, dataset, tmp_path_factory):
    """A run that was not interrupted: its folder and result. It has checkpoints after steps 3, 6 and 8."""
    folder = tmp_path_factory.mktemp("run") / "out"
    return folder, train_video_llm(tiny_run(base, dataset, folder, **TRAINED | {"eval_dataset": str(dataset)}))


@pytest.fixture(scope="module")
def samples(dataset):
    """The conversations, as the processor encodes them."""
    return ConversationDataset(read_conversations(dataset), tiny_processor(), ConversationDataArguments())


def gradients(base, dataset, output_dir, **options):
    """The gradients of the first step of a run."""
    sections = tiny_sections(base, dataset, output_dir)
    sections["training"] |= options
    save_gradients_of_one_step(sections)
    return load_file(f"{output_dir}.st")


# what is trained


def test_every_trained_tensor_is_in_one_group_with_its_rate(base, dataset, tmp_path):
    rates = {name: (number + 1) * 1e-3 for number, name in enumerate(RATES)}
    run = tiny_run(base, dataset, tmp_path / "out", rates, weight_decay=0.1)
    trainer = build_trainer(run, *load_conversations(run))
    optimizer = trainer.create_optimizer()
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = group
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    expected = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {names[key] for key in found} == expected
    assert {group_of(name) for name in expected} == set(rates)
    for key, group in found.items():
        name = names[key]
        assert group["lr"] == rates[group_of(name)]
        vector = trainer.model.get_parameter(name).dim() < 2 or name.endswith("visual_probes")
        assert group["weight_decay"] == (0 if vector else 0.1), name
    frozen = [name for name in names.values() if name not in expected]
    assert any(".layers." in name and "base_layer" in name for name in frozen)
    assert {group_of(name) for name in frozen} == {"vision_encoder", "language_model"}
    # one that is trained but in no group, and one that is in a group but frozen
    trainer.model.lm_head.weight.requires_grad_(True)
    with pytest.raises(
        ConfigurationError, match="parameter '.*embed_tokens.weight' is trained, but stands in 0 groups"
    ):
        check_optimizer(optimizer, trainer.model)
    trainer.optimizer = None
    with pytest.raises(
        ConfigurationError, match="embed_tokens.weight' would be trained, but its group 'language_model'"
    ):
        trainer.create_optimizer()
    trainer.model.lm_head.weight.requires_grad_(False)
    trainer.model.model.vision_model.encoder.visual_probes.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="visual_probes' is frozen, but stands in 1 groups"):
        check_optimizer(optimizer, trainer.model)


def test_all_of_the_trained_tensors_change_and_nothing_else(base, trained):
    folder, result = trained
    before = AutoModelForImageTextToText.from_pretrained(base).state_dict()
    after = read_tensors(folder)
    lora = {name for name in after if ".lora_" in name}
    for name in after.keys() - lora:
        # softmax does not see what the bias of keys adds to all of them alike
        assert name.endswith("k_proj.bias") or not torch.equal(after[name], before[name]), name
    assert all(after[name].abs().sum() > 0 for name in lora)
    counted = {group.name: group.parameters for group in result.groups if group.learning_rate is not None}
    assert counted.keys() == RATES.keys()
    assert sum(counted.values()) == sum(tensor.numel() for tensor in after.values())


@pytest.mark.parametrize(
    ("variant", "modules"), [("softmax", 143_451_648), ("dna", 215_177_904)], ids=["softmax", "dna"]
)
def test_the_released_sizes(variant, modules):
    text = {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    }
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            DnAVideoLlama3Config(text_config=text, vision_config={"attention_variant": variant})
        )
    run = run_config(read_sections(RECIPE), {"output_dir": "unused", "use_cpu": True})
    _, groups = video_llm.prepare(model, run)
    sizes = {group.name: group.parameters for group in groups}
    assert sizes["interaction_modules"] == modules
    assert sizes["visual_probes"] == 16 * 1152
    assert sizes["lora"] == 161_480_704
    assert sizes["projector"] == sizes["probe_projector"] == (1152 + 1) * 3584 + (3584 + 1) * 3584
    rates = {group.name: group.learning_rate for group in groups if group.learning_rate is not None}
    assert rates == {
        **{"lora": 1e-5, "projector": 1e-5, "probe_projector": 1e-5},
        **{"interaction_modules": 2e-6, "visual_probes": 1e-5},
    }
    memory = estimate_memory(groups, model.config, run.data, run.training)
    trained = sum(sizes[name] for name in rates)
    assert trained * getattr(torch, run.training.adapter_dtype).itemsize < 1e9
    assert memory.weights == 2 * (sum(sizes.values()) - trained) + 4 * trained
    assert (memory.gradients, memory.optimizer) == (4 * trained, 8 * trained)
    assert 2**30 < memory.activations < 80 * 2**30


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        ({}, "learning_rates names nothing to train"),
        ({"probes": 1e-3}, "unknown group 'probes'"),
        ({"visual_probe": 1e-3}, "unknown group 'visual_probe': did you mean 'visual_probes'?"),
        ({"projector": 0.0}, "learning_rates.projector must be a positive number, got 0.0"),
        ({"lora": 1e-4, "language_model": 1e-5}, "learning_rates has both lora and language_model"),
    ],
)
def test_rates_that_mean_nothing(rates, reason, tmp_path):
    sections = tiny_sections("unused", "unused", tmp_path)
    sections["training"]["learning_rates"] = rates
    with pytest.raises(ConfigurationError, match=reason.replace("?", r"\?")):
        run_config(sections)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"learning_rate": 1e-3}, "learning_rate has no meaning for a video LLM: give learning_rates"),
        ({"ema_decay": 0.9}, "--ema_decay: it is a key of dna_vit and dna_timesformer, not of dna_video_llama3"),
        ({"layer_decay": 1.0}, "--layer_decay: it is a key of dna_vit and dna_timesformer"),
        ({"base_learning_rate": 1e-3}, "--base_learning_rate: it is a key of dna_vit and dna_timesformer"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is for classifiers"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
        ({"gradient_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant loses the gradients"),
        ({"metric_for_best_model": "top1"}, "metric_for_best_model of a video LLM must be loss"),
        ({"learning_rates": {"lora": "fast"}}, "learning_rates must be `name: value` lines with a float each"),
        ({"on_error": "ignore"}, "on_error must be one of raise, skip"),
        ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant loses the gradients"),
        ({"mixup_alpha": 0.1}, "unknown key --mixup_alpha: it is a key of dna_vit and dna_timesformer"),
        ({"adapter_dtype": "int8"}, "training.adapter_dtype must be one of float32, bfloat16, got 'int8'"),
        ({"push_to_hub": True}, "an adapter is not published: dna-hf merge it"),
    ],
)
def test_options_that_mean_nothing(options, reason, tmp_path):
    with pytest.raises(ConfigurationError, match=reason):
        tiny_run("unused", "unused", tmp_path, **options)


def test_groups_that_the_model_does_not_have_or_use():
    model = tiny_model(tiny_processor())
    with pytest.raises(ConfigurationError, match="learning_rates.lora: the model has no such tensor"):
        freeze_all_but(model, {"lora": 1e-3})
    model.config.include_visual_probes = False
    with pytest.raises(ConfigurationError, match="learning_rates.visual_probes: the model does not use it"):
        freeze_all_but(model, {"visual_probes": 1e-3})
    model.config.include_visual_tokens, model.config.include_visual_probes = False, True
    with pytest.raises(ConfigurationError, match="learning_rates.projector: the model does not use it"):
        freeze_all_but(model, {"projector": 1e-3})
    with pytest.raises(ConfigurationError, match=r"\(llama\) has no linear layer 'qkv_proj': it has down_proj, gate"):
        add_lora(model, rank=4, alpha=8, dropout=0, targets=["q_proj", "qkv_proj"])
    with pytest.raises(ConfigurationError, match="parameter 'head.weight' belongs to no group"):
        group_of("head.weight")


# the loss


def test_labels_are_the_answers_tokens(samples):
    processor = samples.processor
    for row in range(len(samples)):
        sample = samples[row]
        kept = sample["labels"] != IGNORED
        assert torch.equal(sample["labels"][kept], sample["input_ids"][kept])
        answer = " ".join(["It is", *map(str, range(row + 1))]) + "<|im_end|>"
        assert processor.tokenizer.decode(sample["input_ids"][kept]) == answer


def test_labels_of_several_turns_and_a_system_turn(tmp_path):
    turns = [
        {"from": "system", "value": "Be short."},
        *({"from": "human", "value": "One?"}, {"from": "gpt", "value": "Yes, one."}),
        *({"from": "human", "value": "Two?"}, {"from": "gpt", "value": "No."}),
    ]
    (tmp_path / "train.json").write_text(json.dumps([{"conversations": turns}]))
    found = read_conversations(tmp_path / "train.json")
    sample = ConversationDataset(found, tiny_processor(), ConversationDataArguments())[0]
    decode = tiny_processor().tokenizer.decode
    assert decode(sample["input_ids"]) == (
        "<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nOne?<|im_end|>\n<|im_start|>assistant\n"
        "Yes, one.<|im_end|>\n<|im_start|>user\nTwo?<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>\n"
    )
    assert decode(sample["labels"][sample["labels"] != IGNORED]) == "Yes, one.<|im_end|>No.<|im_end|>"


def test_a_batch_is_what_the_processor_makes_of_all_samples(samples):
    processor = samples.processor
    messages = [sample.messages for sample in samples.samples[:3]]
    processor.tokenizer.padding_side = "right"
    expected = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
    )
    batch = ConversationCollator(processor.tokenizer.pad_token_id)([samples[row] for row in range(3)])
    assert batch.pop("rows").tolist() == [0, 1, 2]
    labels = batch.pop("labels")
    assert labels.shape == batch["input_ids"].shape and (labels[batch["attention_mask"] == 0] == IGNORED).all()
    assert batch.keys() == expected.keys()
    for name, tensor in batch.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_the_loss_is_that_of_the_model(base, dataset, samples, tmp_path):
    run = tiny_run(base, dataset, tmp_path / "out")
    trainer = build_trainer(run, *load_conversations(run))
    batch = trainer.data_collator([samples[row] for row in (0, 5, 2)])
    batch.pop("rows")
    model = trainer.model.eval()
    with torch.no_grad():
        expected = model(**batch).loss
        torch.testing.assert_close(trainer.compute_loss(model, dict(batch)), expected)
        count = torch.tensor(100)
        tokens = (batch["labels"] != IGNORED).sum()
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=count)
        torch.testing.assert_close(loss, expected * tokens / count)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Conversations of which the first four are about pictures; a process may get a batch of others alone."""
    dataset = save_conversations(tmp_path_factory.mktemp("mixed"))
    content = json.loads(dataset.read_text())
    for sample in content[4:]:
        del sample["image"]
        sample["conversations"][0]["value"] = "Which number is it?"
    dataset.write_text(json.dumps(content))
    return dataset


@pytest.fixture(scope="module")
def whole(base, mixed, tmp_path_factory):
    """The gradients of a step with one batch of four samples."""
    found = gradients(base, mixed, tmp_path_factory.mktemp("whole") / "out", per_device_train_batch_size=4)
    assert {group_of(name) for name in found} == RATES.keys()
    # softmax does not see what the bias of keys adds to all of them alike
    assert not [n for n, tensor in found.items() if tensor.abs().max() < 1e-4 and not n.endswith("k_proj.bias")]
    return found


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=name)


def test_accumulation_and_checkpointing_give_the_gradients_of_one_batch(base, mixed, whole, tmp_path):
    parts = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
    same(gradients(base, mixed, tmp_path / "parts", **parts), whole)
    frugal = {"per_device_train_batch_size": 4, "gradient_checkpointing": True}
    same(gradients(base, mixed, tmp_path / "frugal", **frugal), whole)


def test_two_processes_give_the_gradients_of_one(base, mixed, whole, tmp_path):
    sections = tiny_sections(base, mixed, tmp_path / "two")
    sections["training"] |= {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
    (tmp_path / "sections.json").write_text(json.dumps(sections))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = [sys.executable, "-m", "tests.training.video_llm_worker", str(tmp_path / "sections.json")]
    result = subprocess.run([*worker, str(port)], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-3000:]
    same(load_file(tmp_path / "two.st"), whole)
    # divided by FSDP2, of four samples that have pictures
    trainer = ready_to_train(sections)
    model = trainer.model.train()
    model(**micro_batch(trainer, range(4)), num_items_in_batch=torch.tensor(50)).loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    same(load_file(tmp_path / "two_sharded.st"), expected)
    tensors = read_tensors(tmp_path / "two_sharded")
    assert all(torch.equal(tensors[name], tensor) for name, tensor in trained_tensors(model).items())


def test_the_loss_of_an_evaluation_is_a_mean_over_tokens(base, dataset, trained, samples, tmp_path):
    folder, result = trained
    model, _ = load_adapted(folder)
    losses, right, tokens = 0.0, 0, 0
    with torch.no_grad():
        for row in range(len(samples)):
            sample = {name: value for name, value in samples[row].items() if name != "rows"}
            batch = {n: v[None] if n in ("input_ids", "attention_mask", "labels") else v for n, v in sample.items()}
            labels = batch.pop("labels")[:, 1:]
            logits = model(**batch).logits[:, :-1]
            kept = labels != IGNORED
            losses += torch.nn.functional.cross_entropy(logits[kept], labels[kept], reduction="sum").item()
            right += (logits.argmax(-1)[kept] == labels[kept]).sum().item()
            tokens += kept.sum().item()
    assert result.metrics["eval_loss"] == pytest.approx(losses / tokens, rel=1e-5)
    assert result.metrics["eval_token_accuracy"] == pytest.approx(right / tokens)


# runs


def test_a_resumed_run_ends_bit_for_bit_like_one_that_was_not_interrupted(
    base, dataset, trained, tmp_path, monkeypatch
):
    folder = tmp_path / "out"
    options = TRAINED | {"eval_dataset": str(dataset)}

    def interrupted(*args):
        trainer = build_trainer(*args)
        trainer.add_callback(StopAfter(5))
        return trainer

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(video_llm, "build_trainer", interrupted)
        train_video_llm(tiny_run(base, dataset, folder, **options))
    assert not (folder / "dna_adapter.json").exists()
    with pytest.raises(ConfigurationError, match="is not empty: pass --resume"):
        train_video_llm(tiny_run(base, dataset, folder, **options))
    result = train_video_llm(tiny_run(base, dataset, folder, **options), resume=True)
    expected, found = read_tensors(trained[0]), read_tensors(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert result.metrics["eval_loss"] == trained[1].metrics["eval_loss"]
    # of another run, and of a damaged checkpoint
    last = folder / "checkpoint-8"
    (last / "dna_adapter.safetensors").write_bytes(b"0")
    with pytest.raises(ConfigurationError, match="cannot resume: .*dna_adapter.safetensors' is damaged"):
        train_video_llm(tiny_run(base, dataset, folder, **options), resume=True)


def test_what_is_saved_is_the_best_checkpoint_and_the_log_has_every_rate(trained):
    folder, _ = trained
    best, last = (read_tensors(folder / f"checkpoint-{step}") for step in (3, 8))
    assert all(torch.equal(tensor, best[name]) for name, tensor in read_tensors(folder).items())
    assert not all(torch.equal(tensor, best[name]) for name, tensor in last.items())
    log = json.loads((folder / "checkpoint-8" / "trainer_state.json").read_text())["log_history"]
    entries = [entry for entry in log if "loss" in entry]
    assert len(entries) == 8
    for entry in entries:
        for name, rate in RATES.items():
            assert entry[f"learning_rate/{name}"] == pytest.approx(rate * entry["learning_rate"] / RATES["lora"])
        assert entry["negative_scale/std"] > 0


def test_bfloat16_trains_float32_tensors_beside_a_frozen_bfloat16_model(base, dataset, tmp_path):
    run = tiny_run(base, dataset, tmp_path / "out", bf16=True, max_steps=1, save_strategy="no")
    trainer = build_trainer(run, *load_conversations(run))
    dtypes = {(p.requires_grad, p.dtype) for p in trainer.model.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
    trainer.train()
    trainer.save_model()
    assert all(tensor.dtype == torch.float32 for tensor in read_tensors(tmp_path / "out").values())
    # the fingerprint of the base is that of its weights in either precision
    load_adapted(tmp_path / "out")


def test_without_probes_only_the_language_model_and_its_projector_learn(base, dataset, tmp_path):
    rates = {"lora": 1e-2, "projector": 1e-2}
    run = tiny_run(
        base, dataset, tmp_path / "out", rates, include_visual_probes=False, max_steps=1, save_strategy="no"
    )
    train_video_llm(run)
    model, processor = load_adapted(tmp_path / "out")
    assert not model.config.include_visual_probes and not processor.include_visual_probes
    assert {group_of(name) for name in read_tensors(tmp_path / "out")} == rates.keys()


def test_a_whole_language_model_can_be_trained(base, dataset, tmp_path):
    rates = {"language_model": 1e-3, "visual_probes": 1e-3}
    train_video_llm(tiny_run(base, dataset, tmp_path / "out", rates, max_steps=1, save_strategy="no"))
    tensors = read_tensors(tmp_path / "out")
    assert not (tmp_path / "out" / "lora").exists()
    model, _ = load_adapted(tmp_path / "out")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())
    assert "model.language_model.embed_tokens.weight" in tensors


def test_a_sharded_run_needs_something_to_see_in_every_sample(base, mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(video_llm, "is_sharded", lambda arguments: True)
    with pytest.raises(ConfigurationError, match="sample 'n4' and 3 more have no image or video, on which FSDP"):
        train_video_llm(tiny_run(base, mixed, tmp_path / "out"))


def test_room_for_the_whole_model_in_the_checkpoints_of_deepspeed(base, dataset, tmp_path, monkeypatch):
    run = tiny_run(base, dataset, tmp_path / "run", save_strategy="steps", save_total_limit=1)
    plan = video_llm.make_plan(run, [load_conversations(run)[0]])
    usage = shutil.disk_usage(tmp_path)
    # the adapter, and two checkpoints of it with Adam's moments
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=7 * 4 * plan.trained))
    train_video_llm(run)
    run = tiny_run(base, dataset, tmp_path / "whole", save_strategy="steps", save_total_limit=1)
    # what the arguments make of ACCELERATE_USE_DEEPSPEED where deepspeed is installed
    run.training.deepspeed_plugin = object()
    whole = (7 * 4 * plan.trained + 2 * 4 * sum(group.parameters for group in plan.groups)) / 2**20
    with pytest.raises(ConfigurationError, match=f"needs about {whole:.1f} MiB .* are free"):
        train_video_llm(run)


@pytest.mark.parametrize(
    ("gathers", "options", "reason"),
    [
        (False, {}, "ZeRO stage 3 must gather what is saved: set zero3_save_16bit_model to true"),
        (True, {"fp16": True}, "training.fp16 does not go with ZeRO stage 3"),
    ],
)
def test_what_stage_3_of_deepspeed_cannot_do(base, dataset, tmp_path, monkeypatch, gathers, options, reason):
    zero = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": gathers}
    monkeypatch.setattr(video_llm, "is_deepspeed_zero3_enabled", lambda: True)
    monkeypatch.setattr(video_llm, "deepspeed_config", lambda: {"zero_optimization": zero})
    with pytest.raises(ConfigurationError, match=reason):
        train_video_llm(tiny_run(base, dataset, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_what_keeps_a_run_from_starting(base, dataset, tmp_path):
    def refused(reason, error=ConfigurationError, checkpoint=base, data=dataset, **overrides):
        with pytest.raises(error, match=reason) as info:
            train_video_llm(tiny_run(checkpoint, data, tmp_path / "out", **overrides))
        assert "\n" not in str(info.value)
        assert not (tmp_path / "out").exists()

    refused("model.checkpoint is missing", checkpoint_revision=None, **{"model.checkpoint": None})
    refused("checkpoint '.*gone' is not there: there is no such folder", checkpoint=tmp_path / "gone")
    refused("data.dataset is missing", data="")
    refused("eval_strategy needs data.eval_dataset", eval_strategy="epoch")
    refused("cannot read the conversations", DataError, data=tmp_path / "gone.json")
    refused("lora_targets: the language model .* has no linear layer 'qkv'", lora_targets=["qkv"])
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"text_config": {"model_type": "llamma"}}))
    refused("text_config has model_type 'llamma', which transformers does not know", checkpoint=broken)
    (broken / "config.json").write_text(json.dumps(config | {"model_type": "video_llama_3"}))
    refused(
        "holds a video_llama_3 model, but .* is needed: make one of it with dna-hf convert",
        checkpoint=broken,
    )
    vision = config["vision_config"] | {"attention_variant": "softmax"}
    (broken / "config.json").write_text(json.dumps(config | {"vision_config": vision}))
    refused(
        "are not those of the configuration that was asked for; tensors: .* unexpected .first '.*negative_scale'",
        checkpoint=broken,
    )
    vision = config["vision_config"] | {"num_probes": 5}
    (broken / "config.json").write_text(json.dumps(config | {"vision_config": vision}))
    refused(
        "the configuration that was asked for; tensors: 1 of another shape .first '.*visual_probes'",
        checkpoint=broken,
    )


# samples that cannot be used


def test_samples_that_cannot_be_read_are_named_or_replaced_by_the_next(tmp_path):
    dataset = save_conversations(tmp_path, count=5)
    content = json.loads(dataset.read_text())
    (tmp_path / "1.png").write_bytes(b"no picture")
    content[2]["conversations"][1]["value"] = "number " * 300
    content[3]["conversations"][0]["value"] = "<image> What is <|im_end|>?"
    dataset.write_text(json.dumps(content))
    processor = tiny_processor()
    reasons = {
        1: r"^'train\.json', entry 2, sample 'n1': ",
        2: r"^'train\.json', entry 3, sample 'n2': its sequence has \d+ tokens, more than model_max_length, 256, and",
        3: r"^'train\.json', entry 4, sample 'n3': field 'conversations' has the special token '<\|im_end\|>'",
    }
    strict = ConversationDataset(
        read_conversations(dataset), processor, ConversationDataArguments(model_max_length=256)
    )
    for row, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as info:
            strict[row]
        assert "\n" not in str(info.value)
    small = ConversationDataset(read_conversations(dataset), processor, ConversationDataArguments(max_visual_tokens=2))
    with pytest.raises(
        DataError, match=r"^'train\.json', entry 1, sample 'n0': 1 .* of at least 4 tokens each do not fit"
    ):
        small[0]
    listed = tmp_path / "run" / "bad.jsonl"
    arguments = ConversationDataArguments(model_max_length=256, on_error="skip")
    lenient = ConversationDataset(read_conversations(dataset), processor, arguments, bad_list=listed)
    for _ in range(2):
        assert [lenient[row]["rows"] for row in range(5)] == [0, 4, 4, 4, 4]
    assert len(reasons_in(listed)) == 3
    # an evaluation counts no sample twice
    evaluation = ConversationDataset(read_conversations(dataset), processor, arguments, training=False)
    assert [bool((evaluation[row]["labels"] != IGNORED).any()) for row in range(5)] == [
        True,
        False,
        False,
        False,
        True,
    ]
    none = read_conversations(dataset)
    del none.samples[4], none.samples[0]
    with pytest.raises(DataError, match=r"no sample of '.*train\.json' can be used, e\.g\. 'train\.json', entry 2"):
        ConversationDataset(none, processor, arguments)[0]


def test_a_run_lists_what_it_leaves_out(base, tmp_path, capsys):
    dataset = save_conversations(tmp_path, count=4)
    content = json.loads(dataset.read_text())
    content[0]["conversations"].pop()
    (tmp_path / "2.png").write_bytes(b"no picture")
    dataset.write_text(json.dumps(content))
    sections = tiny_sections(base, dataset, tmp_path / "out")
    sections["training"] |= {"max_steps": 2, "save_strategy": "no"}
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(sections))
    assert main(["train", str(config), "--output_dir", str(tmp_path / "no")]) == 2
    error = capsys.readouterr().err
    assert "'train.json', entry 1, sample 'n0': field 'conversations' has no turn from 'gpt' to learn." in error
    # of a run that does not start nothing is left
    assert main(["train", str(config), "--on_error", "skip", "--lora_targets", "[qkv]"]) == 2
    assert not (tmp_path / "out").exists()
    assert main(["train", str(config), "--on_error", "skip"]) == 0
    captured = capsys.readouterr()
    printed = " ".join(captured.out.split())
    assert json.loads((tmp_path / "out" / "data_summary.json").read_text())["samples"] == 3
    assert "samples 3 " in printed and "left out 1 " in printed
    lines = [line.split() for line in captured.out.splitlines()]
    assert ["visual_probes", "1", "128", "0.02"] in lines and ["vision_encoder", "36", "36,000", "frozen"] in lines
    assert "memory of a process, estimated" in captured.out
    assert "bad_samples.jsonl" in captured.err
    listed = reasons_in(tmp_path / "out" / "bad_samples.jsonl")
    assert [reason[:31] for reason in listed] == ["'train.json', entry 1, sample '", "'train.json', entry 3, sample '"]
    assert main(["train", str(config), "--push_to_hub", "--output_dir", str(tmp_path / "no")]) == 2
    assert "an adapter is not published: dna-hf merge it" in capsys.readouterr().err


# the adapter


def logits_of(model, samples, rows=(0, 3)):
    batch = ConversationCollator(2)([samples[row] for row in rows])
    del batch["rows"], batch["labels"]
    with torch.no_grad():
        return model(**batch).logits[batch["attention_mask"].bool()]


def test_an_adapter_holds_what_was_trained_and_its_record(base, trained):
    folder, result = trained
    size = sum(
        path.stat().st_size for path in (folder / "dna_adapter.safetensors", folder / "lora/adapter_model.safetensors")
    )
    assert size < 300_000 < 12_000_000 < (base / "model.safetensors").stat().st_size
    description = read_description(folder)
    assert description.base == str(base) and description.with_lora
    assert {group["name"]: group["learning_rate"] for group in description.groups} == RATES
    tensors = load_file(folder / "dna_adapter.safetensors")
    assert {group_of(name) for name in tensors} == RATES.keys() - {"lora"}
    record = read_training(folder)
    record.verify(weights_digest(read_tensors(folder)))
    assert (record.dataset.name, record.started_from) == ("train.json", base.name)


def test_merged_is_what_was_trained(base, dataset, trained, samples, tmp_path, capsys):
    folder, _ = trained
    run = tiny_run(base, dataset, tmp_path / "unused")
    trainer = build_trainer(run, *load_conversations(run))
    trainer._load_from_checkpoint(str(folder))
    expected = logits_of(trainer.model.eval(), samples)
    assert main(["merge", str(folder), "--output", str(tmp_path / "merged")]) == 0
    assert "saved in" in capsys.readouterr().out
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits_of(merged, samples), expected, rtol=0, atol=1e-5)
    untrained = AutoModelForImageTextToText.from_pretrained(base).eval()
    assert (logits_of(untrained, samples) - expected).abs().max() > 0.1
    processor = type(trainer.processing_class).from_pretrained(tmp_path / "merged")
    message = [{"role": "user", "content": [{"type": "image", "image": str(dataset.parent / "3.png")}]}]
    inputs = processor.apply_chat_template(
        message, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    answers = [
        model.generate(**inputs, do_sample=False, max_new_tokens=8).tolist() for model in (trainer.model, merged)
    ]
    assert answers[0] == answers[1]
    read_training(tmp_path / "merged").verify(weights_digest(merged.state_dict()))
    with pytest.raises(ConfigurationError, match="folder '.*merged' is not empty: choose another one"):
        merge_adapter(folder, tmp_path / "merged")
    half = merge_adapter(folder, tmp_path / "half", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16


def test_an_adapter_of_half_the_size_makes_the_same_model(base, dataset, trained, samples, tmp_path):
    options = TRAINED | {"eval_dataset": str(dataset), "adapter_dtype": "bfloat16"}
    train_video_llm(tiny_run(base, dataset, tmp_path / "run", **options))
    whole, half = read_tensors(trained[0]), read_tensors(tmp_path / "run")
    assert whole.keys() == half.keys()
    assert all(torch.equal(half[name], tensor.bfloat16()) for name, tensor in whole.items())
    assert {tensor.dtype for tensor in read_tensors(tmp_path / "run" / "checkpoint-8").values()} == {torch.float32}
    read_training(tmp_path / "run").verify(weights_digest(half))
    # a model in bfloat16 is the same, but for the rounding of LoRA's factors
    models = [load_adapted(folder, dtype=torch.bfloat16)[0] for folder in (trained[0], tmp_path / "run")]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[1][name], states[0][name]) for name in states[0] if name in half)
    expected, found = (logits_of(model.float(), samples) for model in models)
    assert (found - expected).norm() < 0.01 * expected.norm()
    assert torch.equal(found.argmax(-1), expected.argmax(-1))


def test_peft_reads_the_adapters_lora(base, trained, samples):
    from peft import PeftModel

    folder, _ = trained
    expected, _ = load_adapted(folder)
    model = AutoModelForImageTextToText.from_pretrained(base)
    model.load_state_dict(load_file(folder / "dna_adapter.safetensors"), strict=False)
    adapted = PeftModel.from_pretrained(model, folder / "lora").eval()
    torch.testing.assert_close(logits_of(adapted, samples), logits_of(expected, samples), rtol=0, atol=1e-5)


def test_transformers_does_not_load_half_an_adapter(trained):
    with pytest.raises(OSError, match="model.safetensors"):
        AutoModelForImageTextToText.from_pretrained(trained[0])


def test_adapters_that_do_not_fit(base, trained, tmp_path):
    folder, _ = trained

    def refused(reason, adapter=folder, other=None):
        with pytest.raises(ConfigurationError, match=reason) as info:
            load_adapted(adapter, None if other is None else str(other))
        assert "\n" not in str(info.value)

    refused(
        "was trained on other weights than those of .*seed1': give the base", other=save_base(tmp_path / "seed1", 1)
    )
    wider = save_base(tmp_path / "wider", text={"intermediate_size": 96})
    refused(
        "needs its base, .*: the weights in '.*wider' are not those of the configuration that was asked for",
        other=wider,
    )
    refused("needs its base, .*: checkpoint '.*gone' is not there", other=tmp_path / "gone")
    refused("needs its base, .*: checkpoint '.*out' is an adapter: dna-hf merge it first", other=folder)
    refused("is no adapter: it has no dna_adapter.json", adapter=base)
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken, ignore=shutil.ignore_patterns("checkpoint-*"))
    tensors = load_file(folder / "dna_adapter.safetensors")
    probes = "model.vision_model.encoder.visual_probes"
    save_file(tensors | {probes: tensors[probes][:, :2].contiguous()}, broken / "dna_adapter.safetensors")
    refused("does not fit its base: 1 tensors differ, first '.*visual_probes'", broken)
    (broken / "dna_adapter.safetensors").write_bytes(b"0")
    refused("dna_adapter.safetensors' is no intact safetensors file", broken)
    (broken / "dna_adapter.safetensors").unlink()
    refused("the adapter is not whole: .*dna_adapter.safetensors' is missing", broken)
    shutil.copy(folder / "dna_adapter.safetensors", broken)
    lora = json.loads((broken / "lora/adapter_config.json").read_text())
    (broken / "lora/adapter_config.json").write_text(json.dumps(lora | {"use_dora": True}))
    refused("describes another kind of LoRA", broken)


# configurations


def recipes():
    """The runs that the commands of the recipe make: Denoising Attention, softmax, no probes, DeepSpeed."""
    return [
        run_config(read_sections(name), {"output_dir": "unused", "use_cpu": True} | given)
        for name, given in headers.runs(RECIPE)
    ]


def test_the_commands_of_the_recipe_make_what_is_compared():
    runs = recipes()
    assert all(isinstance(run.training, VideoLLMTrainingArguments) for run in runs)
    dna, softmax, plain, launched = (run.sections for run in runs)
    assert launched == dna
    for content in (dna, softmax, plain):
        content["training"].pop("output_dir")
    assert dna["model"] == {
        "model_type": "dna_video_llama3",
        "checkpoint": "runs/videollama3_7b",
        "vision_config": {"attention_variant": "dna"},
    }
    other = {"checkpoint": "runs/videollama3_7b_softmax", "vision_config": {"attention_variant": "softmax"}}
    assert softmax["model"] == dna["model"] | other
    assert plain["model"] == dna["model"] | {"include_visual_probes": False}
    assert dna["data"] == softmax["data"] == plain["data"]
    assert dna["training"] == softmax["training"]
    rates = dna["training"].pop("learning_rates")
    assert plain["training"].pop("learning_rates") == {name: rates[name] for name in ("lora", "projector")}
    assert dna["training"] == plain["training"]


def test_the_recipe_has_the_figures_of_the_paper():
    rows = headers.figures(RECIPE)
    assert {row["attention_variant"]: (row["PerceptionMCQ, %"], row["source of the accuracy"]) for row in rows} == {
        "dna": ("78.6", "reported in the paper"),
        "softmax": ("78.1", "reported in the paper"),
        "no probes": ("72.8", "reported in the paper, perhaps without adaptation"),
    }


def test_the_variant_is_given_once():
    model = {"model_type": "dna_video_llama3", "vision_config": {"attention_variant": "dna", "depth": 2}}
    sections = {"model": model, "training": {"learning_rates": {"lora": 1e-5}, "use_cpu": True}}
    assert run_config(sections, {"attention_variant": "dna"}).model["vision_config"] == model["vision_config"]
    with pytest.raises(ConfigurationError, match="attention_variant is 'softmax', but vision_config has 'dna'"):
        run_config(sections, {"attention_variant": "softmax"})


def test_the_recipe_is_the_released_one():
    run = run_config(read_sections(RECIPE), {"output_dir": "unused", "use_cpu": True})
    training, data = run.training, run.data
    assert (training.lora_rank, training.lora_alpha, training.lora_dropout) == (64, 16, 0.05)
    assert (training.num_train_epochs, training.warmup_steps, training.weight_decay) == (3, 0.03, 0)
    assert (training.lr_scheduler_type, training.optim, training.seed) == ("cosine", "adamw_torch", 42)
    assert 2 * training.per_device_train_batch_size * training.gradient_accumulation_steps == 128
    assert training.bf16 and training.gradient_checkpointing
    assert (data.model_max_length, data.max_visual_tokens, data.fps, data.max_frames) == (16384, 10240, 1, 40)


def test_the_launchers_configurations_fit():
    folder = ROOT / "configs" / "accelerate"
    stages = {n: yaml.safe_load((folder / f"deepspeed_zero{n}.yaml").read_text()) for n in (1, 2, 3)}
    assert all(content["deepspeed_config"]["zero_stage"] == stage for stage, content in stages.items())
    assert stages[3]["deepspeed_config"]["zero3_save_16bit_model"]
    sharded = yaml.safe_load((folder / "fsdp2_video_llm.yaml").read_text())["fsdp_config"]
    text = {"model_type": "qwen2", "num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 4}
    ids = dict(zip(tiny_processor().token_ids(), range(4), strict=True))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(DnAVideoLlama3Config(text_config=text, **ids))
    classes = {type(module).__name__ for module in model.modules()}
    assert set(sharded["fsdp_transformer_layer_cls_to_wrap"].split(",")) <= classes
