"""Reading runs from YAML and overrides; what is wrong is named."""

from pathlib import Path

import pytest
import yaml
from transformers import TrainingArguments

from dna_hf.training.config_file import data_arguments, parse_value, read_sections, run_config
from dna_hf.training.errors import ConfigurationError


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
