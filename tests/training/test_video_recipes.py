"""The configurations of video models against docs/video_recipe.md, and all of them for a few steps on small clips."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoConfig, AutoModelForVideoClassification

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.cli import main
from dna_hf.cli.dispatch import build_parser
from dna_hf.cli.overrides import parse_overrides
from dna_hf.data.arguments import VideoDataArguments
from dna_hf.data.video_protocols import PROTOCOLS
from dna_hf.data.video_sources import load_train_and_eval
from dna_hf.recipes import default_output_dir, read_header
from dna_hf.records.checkpoint_records import read_training
from dna_hf.training.classification import build_model, train_classifier
from dna_hf.training.config_file import run_config
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.optimizer import decay_parameter_names
from dna_hf.training.sections import data_arguments
from dna_hf.training.yaml_file import parse_value, read_sections
from tests.kit import headers
from tests.kit.paths import ROOT
from tests.kit.videos import write_video


DOCUMENT = (ROOT / "docs" / "video_recipe.md").read_text(encoding="utf-8")
VARIANTS = ("softmax", "differential", "dna")
# cell -> protocol, split that is evaluated in training, metric, classes, and the paper's figures in percent
CELLS = {
    "kinetics400": (None, "validation", "top1", 400, None),
    "smarthome_cs": ("smarthome-cs", "test", "mean_class_accuracy", 31, (67.5, 66.6, 68.8)),
    "smarthome_cv1": ("smarthome-cv1", "validation", "mean_class_accuracy", 19, None),
    "smarthome_cv2": ("smarthome-cv2", "validation", "mean_class_accuracy", 19, (59.5, 59.4, 63.5)),
    "ntu60_xsub": ("ntu60-xsub", "test", "top1", 60, (81.2, 81.5, 82.4)),
    "ntu60_xview": ("ntu60-xview", "test", "top1", 60, (88.6, 89.1, 89.2)),
}
RECIPES = [(cell, variant) for cell in CELLS for variant in VARIANTS]
ADAMW = "timesformer_base_smarthome_adamw"
# the protocols that the configurations name; for others it is an option
DEFAULT_PROTOCOLS = (None, "smarthome-cs", "ntu60-xsub")
FIRST_WEIGHTS = {"kinetics400": "image", "smarthome": "kinetics400", "ntu60": "kinetics400"}
# counted from the released code
PARAMETERS = {
    ("softmax", 400): 121_566_352,
    ("softmax", 31): 121_282_591,
    ("softmax", 19): 121_273_363,
    ("softmax", 60): 121_304_892,
    ("dna", 400): 149_915_056,
    ("dna", 31): 149_631_295,
    ("dna", 19): 149_622_067,
    ("dna", 60): 149_653_596,
}


def recipe_of(cell):
    return f"timesformer_base_{cell.split('_')[0]}"


def options_of(cell, variant):
    """What is given beside the configuration for a cell and a variant, as its header says."""
    benchmark, protocol = cell.split("_")[0], CELLS[cell][0]
    options = {} if protocol in DEFAULT_PROTOCOLS else {"protocol": protocol}
    if variant != "dna":
        checkpoint = f"runs/timesformer_base_{FIRST_WEIGHTS[benchmark]}_{variant}"
        options |= {"attention_variant": variant, "checkpoint": checkpoint}
    return options


def sections_of(cell, variant):
    """The sections of a run, as `dna-hf train` checks them."""
    return run_config(read_sections(recipe_of(cell)), options_of(cell, variant) | {"use_cpu": True}).sections


def path_of(cell):
    return ROOT / "configs" / f"{recipe_of(cell)}.yaml"


# --- the configurations and the document ----------------------------------------------------------------------------


def table(first_cell):
    """Rows of the table of the document whose first column has this title."""
    lines = DOCUMENT.split(f"\n| {first_cell} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_there_is_a_configuration_for_every_benchmark():
    found = {path.stem for path in (ROOT / "configs").glob("timesformer_base_*.yaml")}
    assert found == {recipe_of(cell) for cell in CELLS} | {ADAMW}


@pytest.mark.parametrize(("cell", "variant"), RECIPES)
def test_a_configuration_has_the_values_of_the_document(cell, variant):
    values = [match for row in table("what") for match in re.findall(r"`(\w+)\.(\w+): (.+?)`", row[2])]
    assert len(values) > 20
    sections = sections_of(cell, variant)
    for section, key, value in values:
        assert sections[section].pop(key) == parse_value(value), key
    protocol, split, metric, *_ = CELLS[cell]
    benchmark = cell.split("_")[0]
    start = f"timesformer_base_{FIRST_WEIGHTS[benchmark]}"
    # what else there is: nothing that changes the result
    assert sections["model"] == {
        "model_type": "dna_timesformer",
        "checkpoint": f"runs/{start}" + ("" if variant == "dna" else f"_{variant}"),
        "attention_variant": variant,
    }
    assert sections["data"].pop("dataset") == f"data/{benchmark}"
    # by default validation clips are evaluated in training, or test clips where a protocol has no others
    expected = {"protocol": protocol} if protocol else {"on_error": "skip", "eval_split": split}
    assert sections["data"] == {"train_split": "train"} | expected
    assert sections["training"].pop("use_cpu") and sections["training"].pop("metric_for_best_model") == metric
    assert sections["training"].keys() == {
        *("per_device_eval_batch_size", "dataloader_num_workers", "dataloader_persistent_workers", "eval_strategy"),
        *("logging_strategy", "logging_steps", "save_strategy", "save_total_limit", "greater_is_better"),
    }


def test_the_benchmarks_of_the_document():
    rows = table("benchmark")
    assert len(rows) == len(CELLS)
    for row, (cell, (protocol, split, metric, classes, figures)) in zip(rows, CELLS.items(), strict=True):
        shown = [str(figure) for figure in figures] if figures else ["–"] * 3
        option = "" if protocol in DEFAULT_PROTOCOLS else f" `--protocol {protocol}`"
        assert row[1:] == [f"`{recipe_of(cell)}`{option}", str(classes), split, f"`{metric}`", *shown]
        assert protocol is None or classes == len(PROTOCOLS[protocol].class_names)
        assert protocol is None or split in PROTOCOLS[protocol].splits


@pytest.mark.parametrize(("cell", "variant"), RECIPES)
def test_a_header_has_the_figure_of_the_paper(cell, variant):
    protocol, _, metric, _, figures = CELLS[cell]
    key = {"protocol": protocol, "attention_variant": variant} if protocol else {"attention_variant": variant}
    (row,) = [row for row in headers.figures(path_of(cell)) if row.items() >= key.items()]
    figure = {"top1": "top-1, %", "mean_class_accuracy": "mean class accuracy, %"}[metric]
    if figures is None:
        assert row == key | {figure: "-", "source": "no figure reported, none measured"}
    else:
        assert row == key | {figure: str(figures[VARIANTS.index(variant)]), "source": "reported in the paper"}


@pytest.mark.parametrize(("cell", "variant"), RECIPES)
def test_a_header_has_the_command(cell, variant):
    """The run whose values are tested above; another protocol is an option for each of the variants."""
    options = options_of(cell, variant)
    protocol = options.pop("protocol", None)
    assert (recipe_of(cell), options) in headers.runs(path_of(cell))
    lines = read_header(path_of(cell))["Command"]
    assert protocol is None or (lines[-1].startswith("each also with") and f"--protocol {protocol}" in lines[-1])


def test_the_header_has_the_conversion_of_the_first_weights():
    lines = read_header(path_of("kinetics400"))["Data"]
    (convert,) = [line.split() for line in lines if line.startswith("dna-hf convert ")]
    source, out = (
        default_output_dir("vit_base_imagenet1k", {}),
        sections_of("kinetics400", "dna")["model"]["checkpoint"],
    )
    assert convert[2:] == [str(source), out, "--num-frames", "8"]


def test_runs_of_all_recipes_write_to_folders_of_their_own():
    folders = {default_output_dir(recipe_of(cell), options_of(cell, variant)) for cell, variant in RECIPES}
    assert len(folders) == len(RECIPES)
    # where the commands of the next step look for their first weights
    for cell, variant in RECIPES:
        checkpoint = sections_of(cell, variant)["model"]["checkpoint"]
        made = default_output_dir(recipe_of("kinetics400"), options_of("kinetics400", variant))
        assert cell == "kinetics400" or checkpoint == str(made)


@pytest.mark.parametrize(("cell", "variant"), RECIPES)
def test_a_configuration_builds_the_papers_model(cell, variant):
    run = run_config(sections_of(cell, variant))
    classes = CELLS[cell][3]
    config = AutoConfig.for_model(run.model_arguments.model_type, **run.model, num_labels=classes)
    with torch.device("meta"):
        model = AutoModelForVideoClassification.from_config(config)
    if variant != "differential":
        assert model.num_parameters() == PARAMETERS[variant, classes]
    assert len(decay_parameter_names(model, run.training.decay_all)) == len(list(model.parameters()))
    assert config.attention_type == "divided_space_time"


def commands():
    """The commands of the document, as words."""
    for block in re.findall(r"```bash\n(.*?)```", DOCUMENT, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line and not line.startswith("#"):
                yield shlex.split(line)


def test_the_commands_of_the_document_are_understood():
    train = [words for words in commands() if "train" in words]
    assert len(train) == 7
    for words in train:
        place = words.index("train") + 1
        run = run_config(read_sections(words[place]), parse_overrides(words[place + 1 :]) | {"use_cpu": True})
        assert run.training.world_size == 1
    others = [words for words in commands() if words[0] == "dna-hf" and words[1] not in ("train", "recipes")]
    assert [words[1] for words in others] == ["convert", *["evaluate"] * 4]
    for words in others:
        _, rest = build_parser().parse_known_args(words[1:])
        options = parse_overrides(rest)
        assert words[1] != "convert" or not options
        assert words[1] == "convert" or data_arguments(options, VideoDataArguments).num_crops == 3
    # accelerate's processes make the same batch
    (launch,) = [words for words in train if words[0] == "accelerate"]
    processes = int(launch[launch.index("--num_processes") + 1])
    assert 8 * processes * int(launch[-1]) == 64


def test_the_recipe_with_adamw_is_what_the_options_of_the_document_make_of_another():
    (words,) = [words for words in commands() if "adamw_torch" in words]
    overrides = parse_overrides(words[3:]) | {"output_dir": f"runs/{ADAMW}", "use_cpu": True}
    made = run_config(sections_of("smarthome_cs", "dna"), overrides)
    shipped = run_config(read_sections(ADAMW), {"output_dir": f"runs/{ADAMW}", "use_cpu": True})
    assert (made.model, made.model_arguments, made.data) == (shipped.model, shipped.model_arguments, shipped.data)
    ours, theirs = made.training.to_dict(), shipped.training.to_dict()
    assert ours.pop("logging_dir", None) == theirs.pop("logging_dir", None)
    assert ours == theirs
    values = {
        **{"learning_rate": 1e-4, "adam_beta1": 0.9, "adam_beta2": 0.999, "weight_decay": 0.05, "decay_all": False},
        **{"layer_decay": 0.75, "label_smoothing_factor": 0.1, "bf16": True, "warmup_steps": 0.1, "max_grad_norm": 1},
    }
    assert {key: ours[key] for key in values} == values


# --- small runs of them ---------------------------------------------------------------------------------------------


SMALL = {
    **{"image_size": 16, "num_frames": 2, "short_side": [16, 20]},
    **{"num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    **{"lr_scheduler_kwargs": {"steps": [0, 1], "factors": [1, 0.1]}, "dataloader_num_workers": 0},
    **{"dataloader_persistent_workers": False, "dataloader_pin_memory": False, "logging_steps": 1, "use_cpu": True},
    **{"disable_tqdm": True},
}
SMALL_IMAGE_MODEL = {
    **{"image_size": 16, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"intermediate_size": 32, "drop_path_rate": 0.15, "num_labels": 7},
}


def clip(folder, name, level):
    path = folder / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [np.full((32, 40, 3), level + index, dtype=np.uint8) for index in range(4)], fps=10)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Dark, grey and light clips in folders like those of the three data sets."""
    root = tmp_path_factory.mktemp("data")
    for split, count in (("train", 4), ("val", 2)):
        for number in range(count):
            for name, level in (("dark", 20), ("grey", 120), ("light", 220)):
                clip(root / "kinetics400" / split / name, str(number), level + number)
    (root / "kinetics400" / "train" / "dark" / "gone.mp4").write_bytes(b"")
    for name, level in (("Cutbread", 20), ("Walk", 220)):
        # subjects 3, 4 and camera 1 train, camera 5 validates, subject 2 and camera 2 test
        for person, camera in ((3, 1), (4, 1), (6, 1), (4, 5), (2, 2)):
            clip(root / "smarthome", f"{name}_p{person:02}_r00_v01_c{camera:02}", level + person)
    for action, level in ((1, 20), (60, 220)):
        # persons 1, 2 and cameras 2, 3 train, person 3 and camera 1 test
        for person, camera in ((1, 2), (2, 3), (1, 1), (3, 2), (3, 1)):
            clip(root / "ntu60", f"S001C{camera:03}P{person:03}R001A{action:03}_rgb", level + person)
    return root


def run_of(cell, variant, data, runs, recipe=None, **more):
    """The run of a cell and a variant that reads and writes in folders of the test, and is scaled down."""
    recipe, given = recipe or recipe_of(cell), options_of(cell, variant)
    sections = read_sections(recipe)
    options = SMALL | given | {"dataset": str(data / sections["data"]["dataset"].partition("/")[2])}
    skips = sections["data"].get("on_error") == "skip"
    options |= ({"max_bad_fraction": 0.2} if skips else {}) | more
    if not sections["training"].get("epoch_steps"):
        options.pop("lr_scheduler_kwargs")
    if "checkpoint" not in options or "checkpoint" in given:
        folder = Path(given.get("checkpoint", sections["model"]["checkpoint"])).name
        options["checkpoint"] = str(runs / folder)
    options.setdefault("output_dir", str(runs / default_output_dir(recipe, given).name))
    return run_config(sections, options)


def folder_of(runs, cell, variant):
    """Where the run of a cell and a variant wrote."""
    return runs / default_output_dir(recipe_of(cell), options_of(cell, variant)).name


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """An image model of every variant, and what Kinetics-400 made of it; nothing but the commands of the document."""
    root = tmp_path_factory.mktemp("runs")
    for variant in VARIANTS:
        torch.manual_seed(0)
        image = DnAViTForImageClassification(DnAViTConfig(attention_variant=variant, **SMALL_IMAGE_MODEL))
        ending = "" if variant == "dna" else f"_{variant}"
        image.save_pretrained(root / f"vit_base_imagenet1k{ending}")
        folders = [str(root / f"{name}{ending}") for name in ("vit_base_imagenet1k", "timesformer_base_image")]
        assert main(["convert", *folders, "--num-frames", "2"]) == 0
        train_classifier(run_of("kinetics400", variant, data, root))
    return root


@pytest.mark.parametrize("variant", VARIANTS)
def test_kinetics_from_an_image_model(runs, variant):
    folder = folder_of(runs, "kinetics400", variant)
    config = json.loads((folder / "config.json").read_text())
    assert (config["attention_variant"], config["num_frames"], len(config["id2label"])) == (variant, 2, 3)
    assert (config["drop_path_rate"], config["drop_path_schedule"]) == (0.1, "linear")
    processor = json.loads((folder / "video_preprocessor_config.json").read_text())
    assert (processor["sampling"], processor["num_frames"]) == ("released", 2)
    assert (processor["image_mean"], processor["image_std"]) == ([0.45] * 3, [0.225] * 3)
    assert read_training(folder).started_from is not None
    # 13 clips are 6 micro-batches, those are 3 steps
    assert rates(folder) == pytest.approx([0.005] * 3 + [0.0005] * 3)
    assert (folder / "unreadable.jsonl").read_text().count("gone.mp4") >= 1


def rates(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["learning_rate"] for entry in history if "learning_rate" in entry]


CHAINS = [(cell, "dna", None) for cell in CELLS if cell != "kinetics400"]
CHAINS += [("smarthome_cs", "softmax", None), ("smarthome_cs", "differential", None), ("smarthome_cs", "dna", ADAMW)]


@pytest.mark.parametrize(("cell", "variant", "recipe"), CHAINS)
def test_a_benchmark_from_kinetics(data, runs, capsys, tmp_path, cell, variant, recipe):
    """The head is new and has the classes of the benchmark; all else begins where the Kinetics model ended."""
    run = run_of(cell, variant, data, runs, recipe)
    protocol, split, metric, classes, _ = CELLS[cell]
    assert load_train_and_eval(run.data, seed=0)[1].name == split
    names = list(PROTOCOLS[protocol].class_names)
    before, processor = build_model(run, names)
    start = AutoModelForVideoClassification.from_pretrained(run.model_arguments.checkpoint)
    weights = start.state_dict()
    assert before.classifier.weight.shape == (classes, 16)
    assert start.classifier.weight.shape == (3, 16)
    for name, tensor in before.state_dict().items():
        assert name.startswith("classifier.") or torch.equal(tensor, weights[name]), name
    assert processor.sampling == "released"

    result = train_classifier(run)
    assert f"eval_{metric}" in result.metrics
    config = json.loads((result.output_dir / "config.json").read_text())
    assert [config["id2label"][str(number)] for number in range(classes)] == names
    report = tmp_path / "report.json"
    command = ["evaluate", str(result.output_dir), "--dataset", run.data.dataset, "--protocol", protocol]
    assert main([*command, "--num_crops", "3", "--output", str(report)]) == 0
    assert "mean class accuracy" in capsys.readouterr().out
    assert json.loads(report.read_text())["metrics"]["videos"] == {"smarthome": 2, "ntu60": 4}[cell.split("_")[0]]


def test_a_run_of_the_recipe_continues_exactly(data, runs, tmp_path):
    recipe = ("smarthome_cs", "dna", data, runs)
    straight = train_classifier(run_of(*recipe, output_dir=str(tmp_path / "straight"))).output_dir
    resumed = shutil.copytree(straight, tmp_path / "resumed")
    first, last = sorted(resumed.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    shutil.rmtree(last)
    state = torch.load(first / "optimizer.pt", weights_only=True)
    assert all(entry["momentum_buffer"].any() for entry in state["state"].values() if "momentum_buffer" in entry)
    assert {(group["momentum"], group["nesterov"]) for group in state["param_groups"]} == {(0.9, True)}
    for file in ("model.safetensors", "training.json", "measurements.json"):
        (resumed / file).unlink()
    train_classifier(run_of(*recipe, output_dir=str(resumed)), resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert rates(resumed) == rates(straight)


def test_a_model_of_another_variant_is_refused(data, runs, tmp_path):
    other = str(folder_of(runs, "kinetics400", "softmax"))
    run = run_of("smarthome_cs", "dna", data, runs, checkpoint=other, output_dir=str(tmp_path / "out"))
    with pytest.raises(
        ConfigurationError, match="^section 'model': model.attention_variant is 'dna', but .* has 'softmax'"
    ):
        train_classifier(run)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_is_not_there_is_one_sentence(data, runs, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    sections = sections_of("smarthome_cs", "dna")
    sections["model"]["checkpoint"] = str(tmp_path / "nowhere")
    sections["data"]["dataset"] = str(data / "smarthome")
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    assert main(["train", str(path), "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("dna-hf: error: section 'model': ") and "nowhere" in error
