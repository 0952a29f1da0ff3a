"""Reading runs from YAML and overrides; what is wrong is named."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from dna_hf.data.arguments import ImageDataArguments
from dna_hf.training import options
from dna_hf.training.arguments import ClassifierTrainingArguments, VideoLLMTrainingArguments
from dna_hf.training.config_file import run_config
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.limits import check_limits
from dna_hf.training.sections import data_arguments
from dna_hf.training.yaml_file import parse_value, read_record, read_sections


CONFIGS = sorted(Path(__file__).parents[2].joinpath("configs").glob("*.yaml"))


def sections(**values):
    return {"model": {}, "data": {}, "training": {"output_dir": "unused"}} | values


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_say_what_they_are_for(path):
    # on the CPU, as bfloat16 is refused where a GPU is wanted and not there
    run = run_config(read_sections(path), {"use_cpu": True})
    # where a run writes follows from the name of its file and the variant, see dna_hf.recipes
    assert "output_dir" not in run.sections["training"]
    header = path.read_text().split("\nmodel:")[0]
    assert all(word in header for word in ("# Purpose:", "# Expect:", "# Time:", "# Command:"))


def test_values_are_what_they_look_like():
    assert parse_value("1e-4") == 1e-4 and parse_value("3E5") == 3e5 and parse_value("-2e+1") == -20
    assert parse_value("1.5e-3") == 1.5e-3 and parse_value("12") == 12 and parse_value("1e") == "1e"
    assert parse_value("no") == "no" and parse_value("on") == "on" and parse_value("false") is False
    assert parse_value("[0.5, 1]") == [0.5, 1] and parse_value("null") is None and parse_value("true") is True


def test_sections_reach_their_owners(tmp_path):
    path = written(
        tmp_path,
        "model: {attention_variant: cog, hidden_size: 64}\n"
        "data: {streaming: true}\n"
        "training: {output_dir: out, learning_rate: 1e-2, num_train_epochs: 3, report_to: none}\n",
    )
    run = run_config(read_sections(path))
    assert run.model == {"attention_variant": "cog", "hidden_size": 64}
    assert run.data.streaming is True
    assert (run.training.learning_rate, run.training.num_train_epochs) == (0.01, 3.0)


def test_overrides_find_their_section():
    run = run_config(sections(), {"hidden_size": 96, "dataset": "x", "learning_rate": 1, "data.image_column": "img"})
    assert run.model["hidden_size"] == 96
    assert (run.data.dataset, run.data.image_column, run.training.learning_rate) == ("x", "img", 1.0)
    assert run_config(sections(), {"image_mean": [0, 0.5, 1]}).data.image_mean == [0.0, 0.5, 1.0]
    # the sections that were read stay as they were
    given = sections(model={"hidden_size": 32})
    run_config(given, {"hidden_size": 64})
    assert given["model"] == {"hidden_size": 32}


@pytest.mark.parametrize(
    ("key", "value"),
    [("class_names", ["a"]), ("seed", 1), ("checkpoint", "x"), ("image_size", 32), ("streaming", True)],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_common_keys_are_not_ambiguous(key, value):
    run = run_config(sections(), {key: value})
    assert any(values.get(key) == value for values in run.sections.values())


def test_recorded_sections_make_the_same_run():
    run = run_config(sections(model={"hidden_size": 64}), {"learning_rate": 0.5})
    again = run_config(yaml.safe_load(yaml.safe_dump(run.sections)))
    assert (again.model, again.data, again.training.learning_rate) == (run.model, run.data, 0.5)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"hiden_size": 64}, "'hiden_size'.*did you mean 'hidden_size'"),
        ("model", {"hidden_size": "64"}, "model.hidden_size must be int, got '64'"),
        ("model", {"hidden_size": 64.5}, "model.hidden_size must be int"),
        ("model", {"hidden_size": True}, "model.hidden_size must be int"),
        ("model", {"attention_variant": "dnaa"}, "model.attention_variant.*dna"),
        ("model", {"drop_path_schedule": "cosine"}, "model.drop_path_schedule"),
        ("model", {"model_type": "resnet"}, "model_type 'resnet'"),
        ("model", {"checkpoint": 3}, "model.checkpoint must be str or null"),
        ("data", {"datset": "x"}, "did you mean 'dataset'"),
        ("data", {"streaming": "yes"}, "data.streaming must be bool"),
        ("data", {"crop_scale": 0.5}, "data.crop_scale must be list of float, got 0.5"),
        ("data", {"crop_scale": [0.5, "b"]}, "data.crop_scale must be list of float"),
        ("data", {"crop_scale": [True, 1]}, "data.crop_scale must be list of float"),
        ("data", {"crop_scale": [0.9, 0.1]}, "crop_scale"),
        ("data", {"max_train_samples": 0}, "max_train_samples"),
        ("training", {"learning_rat": 1e-3}, "did you mean 'learning_rate'"),
        ("training", {"learning_rate": "fast"}, "training.learning_rate must be float, got 'fast'"),
        ("training", {"learning_rate": -1.0}, "training.learning_rate must be positive"),
        ("training", {"per_device_train_batch_size": 0}, "training.per_device_train_batch_size must be positive"),
        ("training", {"num_train_epochs": -3}, "training.num_train_epochs must be positive"),
        ("training", {"eval_strategy": "sometimes"}, "sometimes"),
        ("training", {"lr_scheduler_type": "cosinus"}, "cosinus"),
        ("training", {"optim": "adamx"}, "adamx"),
        ("training", {"seed": None}, "training.seed must be int"),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_wrong_values_are_named(section, values, message):
    given = sections()
    given[section] = given[section] | values
    with pytest.raises(ConfigurationError, match=message) as caught:
        run_config(given)
    assert "\n" not in str(caught.value)


LLM = {"model_type": "dna_video_llama3", "learning_rates": {"lora": 1e-4}}
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("seed", -1, "must be from 0 to 4294967295, got -1"),
        ("seed", 2**32, "must be from 0 to 4294967295"),
        ("data_seed", -1, "must be from 0 to 4294967295, got -1"),
        ("log_level", "x", "must be one of .*info, .*passive, got 'x'"),
        ("log_level_replica", "loud", "must be one of .*warning, .*got 'loud'"),
        ("max_steps", 0, "must be at least 1, or -1 .*, got 0"),
        ("max_steps", -2, "must be at least 1, or -1"),
        ("num_train_epochs", 0, "must be positive, got 0.0"),
        ("num_train_epochs", NAN, "must be finite, got nan"),
        ("num_train_epochs", INF, "must be finite, got inf"),
        ("weight_decay", -0.1, "must be at least 0, got -0.1"),
        ("weight_decay", NAN, "must be finite"),
        ("max_grad_norm", -1, "must be at least 0"),
        ("adam_beta1", 1.0, "must be at least 0 and below 1, got 1.0"),
        ("adam_beta2", -0.5, "must be at least 0 and below 1"),
        ("adam_epsilon", 0, "must be positive"),
        ("warmup_steps", -1, "must be at least 0, got -1.0"),
        ("label_smoothing_factor", NAN, "must be finite"),
        ("lr_scheduler_kwargs", {"min_lr": NAN}, "must be finite"),
        ("gradient_accumulation_steps", 0, "must be positive, got 0"),
        ("eval_steps", 0, "must be positive"),
        ("logging_steps", -5, "must be positive"),
        ("save_steps", 0, "must be positive"),
        ("save_total_limit", 0, "must be positive, got 0"),
        ("dataloader_num_workers", -1, "must be at least 0"),
        ("resume_from_checkpoint", "runs/a/checkpoint-3", "cannot be 'runs/a/checkpoint-3': pass --resume"),
        ("do_train", True, "cannot be True: it does nothing here"),
        ("do_eval", True, "cannot be True: it does nothing here"),
        ("do_predict", True, "cannot be True: it does nothing here"),
        ("prediction_loss_only", True, "cannot be True: the figures of an evaluation need its predictions"),
        ("batch_eval_metrics", True, "cannot be True: figures are computed of all samples together"),
        ("eval_do_concat_batches", False, "cannot be False: figures are computed of all samples together"),
        ("hub_always_push", True, "cannot be True: a finished model is published once"),
    ],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize("overridden", [False, True], ids=["file", "override"])
def test_training_keys_that_cannot_work(key, value, message, overridden):
    """Each is one sentence that names key and value, for a classifier and for a video LLM alike."""
    for others in ({}, LLM):
        given = sections(model={"model_type": others.get("model_type", "dna_vit")})
        given["training"] |= {k: v for k, v in others.items() if k != "model_type"}
        if not overridden:
            given["training"][key] = value
        with pytest.raises(ConfigurationError, match=rf"^training\.{key} {message}") as caught:
            run_config(given, {key: value} if overridden else {})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"accelerator_config": {"unknown": 1}}, "unexpected keyword argument 'unknown'"),
        ({"fsdp": "full_shard", "fsdp_config": "nowhere.json"}, "nowhere.json"),
        ({"lr_scheduler_kwargs": "{a"}, "property name"),
        ({"hub_strategy": "often"}, "often"),
        ({"push_to_hub": True, "hub_strategy": "every_save"}, "hub_strategy must be end"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_what_transformers_refuses_is_one_sentence(values, message):
    with pytest.raises(ConfigurationError, match=f"^section 'training': .*{message}") as caught:
        run_config(sections(), values)
    assert "\n" not in str(caught.value)


def test_a_wrong_type_is_told_as_such():
    """Limits are looked at before types: what is no number is left to the check of types."""
    check_limits({"seed": "x", "max_steps": None, "weight_decay": [1], "log_level": 3})
    with pytest.raises(ConfigurationError, match="training.seed must be int, got 'x'"):
        run_config(sections(), {"seed": "x"})


def test_values_at_their_limits():
    values = {
        "seed": 0,
        "data_seed": 2**32 - 1,
        "log_level": "debug",
        "max_steps": 1,
        "weight_decay": 0,
        "eval_steps": 1,
    }
    run = run_config(sections(), values)
    assert {key: getattr(run.training, key) for key in values} == values
    assert run_config(sections(), {"max_steps": -1, "save_total_limit": None}).training.max_steps == -1


def test_arguments_of_classifiers_and_video_llms_are_siblings():
    classifier, llm = run_config(sections()).training, run_config(sections(), LLM).training
    assert type(classifier) is ClassifierTrainingArguments and type(llm) is VideoLLMTrainingArguments
    for name in ("ema_decay", "layer_decay", "base_learning_rate"):
        assert hasattr(classifier, name) and not hasattr(llm, name)
    for name in ("learning_rates", "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "adapter_dtype"):
        assert hasattr(llm, name) and not hasattr(classifier, name)
    for name in ("decay_all", "epoch_cosine", "epoch_steps", "early_stopping_patience"):
        assert getattr(classifier, name) == getattr(llm, name)


@pytest.mark.parametrize(
    ("section", "key", "owner"),
    [
        ("model", "num_frames", "dna_timesformer"),
        ("data", "num_clips", "dna_timesformer"),
        ("training", "lora_rank", LLM),
    ],
)
def test_a_key_of_another_model_says_whose_it_is(section, key, owner):
    owner = owner if isinstance(owner, str) else owner["model_type"]
    given = sections()
    given[section] = given[section] | {key: 1}
    for wrong, values in ((given, {}), (sections(), {key: 1})):
        with pytest.raises(ConfigurationError, match=rf"{key}.*: it is a key of {owner}, not of dna_vit\."):
            run_config(wrong, values)


def test_the_options_of_a_run_are_listed_without_heavy_imports():
    """A help text reads them: the file alone is loaded, in a process of its own, and nothing heavy with it."""
    code = (
        "import dataclasses, runpy, sys; names = runpy.run_path(sys.argv[1]); "
        "print([f.name for f in dataclasses.fields(names['ClassifierOptions'])], "
        "all(f.metadata['help'] for f in dataclasses.fields(names['VideoLLMOptions'])), "
        "sorted({'torch', 'transformers', 'numpy', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, options.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['decay_all', ") and "'freeze'] True []" in done.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must hold the sections"),
        (b"model: {image_si", "no valid YAML"),
        (b"- a\n", "must hold the sections"),
        (b"model: 3\n", "section 'model'"),
        (b"\xff\xfe\x00", "it is no text"),
        (b"a: " + 2000 * b"[", "no valid YAML"),
        (b"model: {date: 2024-99-99}\n", "no valid YAML"),
    ],
    ids=["empty", "cut", "list", "scalar", "binary", "nested", "date"],
)
@pytest.mark.parametrize("read", [read_sections, read_record], ids=["configuration", "record"])
def test_damaged_files_are_one_sentence(tmp_path, content, message, read):
    (tmp_path / "run.yaml").write_bytes(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        run_config(read(tmp_path / "run.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must hold the sections"),
        ("- a\n- b\n", "must hold the sections"),
        ("modle: {}\n", "'modle'.*did you mean 'model'"),
        ("model: 3\n", "section 'model'"),
        ("model: {hidden_size: 1\n", "no valid YAML"),
        ("model:\n\thidden_size: 1\n", "no valid YAML"),
        ("model:\n  hidden_size: 1\n  hidden_size: 2\n", "'hidden_size' is given twice"),
        ("model: !!python/object/apply:os.getcwd []\n", "no valid YAML"),
    ],
    ids=["empty", "list", "section", "scalar", "open", "tab", "duplicate", "object"],
)
def test_broken_files_are_refused(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message):
        read_sections(written(tmp_path, text))


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="nowhere.yaml"):
        read_sections(tmp_path / "nowhere.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigurationError, match="binary.yaml"):
        read_sections(tmp_path / "binary.yaml")
    with pytest.raises(ConfigurationError, match="is a folder and not the name of a recipe"):
        read_sections(tmp_path)


@pytest.mark.parametrize("key", ["hiden_size", "modl.hidden_size", "model.hiden_size"])
def test_unknown_overrides_are_refused(key):
    with pytest.raises(ConfigurationError, match="did you mean"):
        run_config(sections(), {key: 1})


def test_data_arguments_alone():
    assert data_arguments({"dataset": "x", "data.streaming": True}).streaming is True
    with pytest.raises(ConfigurationError, match="'dataset'"):
        data_arguments({"datset": "x"})
    with pytest.raises(ConfigurationError, match="learning_rate"):
        data_arguments({"learning_rate": 1.0})


def test_any_trainer_argument_is_a_key():
    run = run_config(sections(), {"gradient_checkpointing": True, "lr_scheduler_kwargs": {"min_lr": 0.1}})
    assert isinstance(run.training, TrainingArguments) and run.training.gradient_checkpointing
    assert run.training.lr_scheduler_kwargs == {"min_lr": 0.1}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"max_bad_fraction": 0.5}, "max_bad_fraction is 0.5, .* set on_error to skip"),
        ({"max_bad_fraction": 0.5, "on_error": "raise"}, "max_bad_fraction is 0.5, .* set on_error to skip"),
        ({"validation_fraction": 0.2, "eval_split": "test"}, "validation_fraction is 0.2, .*'test'.* leave one"),
        ({"max_bad_fraction": 0.5, "on_error": "skip"}, None),
        ({"validation_fraction": 0.2}, None),
        ({"validation_fraction": 0.2, "eval_split": None}, None),
    ],
    ids=str,
)
def test_a_key_of_the_data_that_another_leaves_without_effect_is_refused(data, said):
    if said is None:
        assert run_config(sections(), data).sections["data"].items() >= data.items()
        assert data_arguments(data) == ImageDataArguments(**data)
        return
    for read in (partial(run_config, sections()), data_arguments):
        with pytest.raises(ConfigurationError, match=said):
            read(data)
