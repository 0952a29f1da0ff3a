"""What must be there before a run starts: a folder to write to, room on the disk, a whole checkpoint."""

import json
import shutil
import zipfile
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from safetensors import SafetensorError, safe_open
from torch.distributed.fsdp import StateDictType
from transformers import PreTrainedModel
from transformers.trainer_utils import get_last_checkpoint

from ..errors import must_be_empty, must_be_writable
from ..pretrained import ADAPTER_FILE
from .adapter import LORA_FOLDER, LORA_WEIGHTS_FILE, WEIGHTS_FILE
from .arguments import ClassifierTrainingArguments, DnATrainingArguments, VideoLLMTrainingArguments
from .config_file import AnyRun
from .ema import EMA_FILE
from .errors import ConfigurationError
from .yaml_file import read_record


RUN_FILE = "run.yaml"
# keys of section `training` that say what is learned
KEPT = ("class_weights", "freeze")
# of a folder that torch.distributed.checkpoint writes
METADATA = ".metadata"


def find_checkpoint(run: AnyRun, resume: bool) -> str | None:
    """The checkpoint to resume from, if any; guards the output folder.

    Args:
        run: the run, whose `output_dir` is looked at.
        resume: whether the run is to go on from a checkpoint.

    Returns:
        The folder of the newest checkpoint, `None` without `resume`.

    Raises:
        ConfigurationError: if the folder holds another run and `resume` is not set, or cannot be written, or there is
            nothing to resume, the checkpoint is damaged, or the run in the folder has another model or other data.
    """
    output_dir = run.output_dir
    try:
        if not resume:
            fix = "pass --resume to continue the run in it, or choose another --output_dir"
            must_be_empty(output_dir, ConfigurationError, fix)
            return None
        must_be_writable(output_dir, ConfigurationError)
    except ConfigurationError as error:
        raise ConfigurationError(f"output_dir: {error}") from error
    checkpoint = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
    if checkpoint is None:
        raise ConfigurationError(f"there is no checkpoint to resume from in {str(output_dir)!r}.")
    _must_be_the_same(run)
    _check_whole(Path(checkpoint), checkpoint_files(run.training, has_lora=run.peft.r is not None))
    return checkpoint


def _must_be_the_same(run: AnyRun) -> None:
    """See that the run in the output folder has the same model and data, and trains the same with the same loss.

    Raises:
        ConfigurationError: naming the first key that differs, or if the record is missing or damaged.
    """
    folder, record = str(run.output_dir), run.output_dir / RUN_FILE
    if not record.exists():
        raise ConfigurationError(f"{folder!r} has checkpoints but no {RUN_FILE}: dna-hf train did not write it.")
    try:
        earlier = read_record(record)
    except ConfigurationError as error:
        raise ConfigurationError(f"cannot resume: {error}") from error
    for section in ("model", "data", "peft", "training"):
        before, now = earlier[section], run.sections.get(section, {})
        keys = KEPT if section == "training" else before.keys() | now.keys()
        changed = sorted(key for key in keys if before.get(key) != now.get(key))
        if changed:
            raise ConfigurationError(
                f"the run in {folder!r} has {section}.{changed[0]} = {before.get(changed[0])!r}, not "
                f"{now.get(changed[0])!r}: a resumed run keeps it."
            )


def weights_size(model: PreTrainedModel) -> int:
    """Bytes of the weights of a model."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def check_disk(run: AnyRun, weights: int, *, averages: int = 0, besides: int = 0) -> None:
    """See that what the run will keep at a time fits on the disk: the model, and its checkpoints with Adam's moments.

    Args:
        run: the run, which says how many checkpoints are kept.
        weights: bytes of what is saved of the model.
        averages: number of averages of the weights that are saved beside them.
        besides: bytes that each checkpoint holds besides the weights, their averages and Adam's moments.

    Raises:
        ConfigurationError: if it does not.
    """
    # a new checkpoint is written before the oldest one goes
    checkpoints = 0 if run.training.save_strategy == "no" else (run.training.save_total_limit or 0) + 1
    needed = weights * (1 + averages + checkpoints * (3 + averages)) + checkpoints * besides
    free = shutil.disk_usage(_nearest_folder(run.output_dir)).free
    if free < needed:
        raise ConfigurationError(
            f"the run needs about {needed / 2**20:,.1f} MiB in {str(run.output_dir)!r}, but {free / 2**20:,.1f} MiB "
            "are free: make room, choose another output_dir, or keep fewer checkpoints (save_total_limit)."
        )


def _nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def _check_whole(checkpoint: Path, names: list[str]) -> None:
    """Raise an error that names the first file of a checkpoint that is missing or truncated."""
    for name in names:
        path = checkpoint / name
        if path.is_file() and _is_whole(path):
            continue
        raise ConfigurationError(
            f"cannot resume: {str(path)!r} is {'damaged' if path.is_file() else 'missing'}; remove "
            f"{str(checkpoint)!r} to continue from the checkpoint before it."
        )


def checkpoint_files(arguments: DnATrainingArguments, *, has_lora: bool = False) -> list[str]:
    """What a process reads of a checkpoint, but for the files of DeepSpeed.

    Args:
        arguments: section `training` of the run.
        has_lora: whether the run trains LoRA of a classifier.
    """
    single = arguments.world_size == 1
    names = ["trainer_state.json", "rng_state.pth" if single else f"rng_state_{arguments.process_index}.pth"]
    if isinstance(arguments, ClassifierTrainingArguments) and arguments.ema_decay:
        names.append(EMA_FILE)
    if arguments.deepspeed_plugin is not None:
        return names
    names.append("scheduler.pt")
    if not is_sharded(arguments):
        return [*names, *([LORA_WEIGHTS_FILE] if has_lora else _weights_files(arguments)), "optimizer.pt"]
    # as the Trainer makes it: from the arguments, or from what `accelerate launch` sets
    plugin = FullyShardedDataParallelPlugin(**(arguments.fsdp_plugin_args or {}))
    if plugin.state_dict_type == StateDictType.FULL_STATE_DICT:
        return [*names, "pytorch_model_fsdp.bin", "optimizer.bin"]
    return [*names, *(f"{folder}/{METADATA}" for folder in ("pytorch_model_fsdp_0", "optimizer_0"))]


def _weights_files(arguments: DnATrainingArguments) -> list[str]:
    if not isinstance(arguments, VideoLLMTrainingArguments):
        return ["model.safetensors"]
    lora = [f"{LORA_FOLDER}/{LORA_WEIGHTS_FILE}"] if arguments.with_lora else []
    return [WEIGHTS_FILE, ADAPTER_FILE, *lora]


def is_sharded(arguments: DnATrainingArguments) -> bool:
    """Whether accelerate shards the model, asked by the arguments or by `accelerate launch`: not on the CPU."""
    asked = arguments.fsdp or parse_flag_from_env("ACCELERATE_USE_FSDP")
    distributed_type = PartialState().distributed_type
    return bool(asked) and distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU)


def _is_whole(path: Path) -> bool:
    """Whether a file of safetensors, JSON or `torch.save` has an end."""
    if path.name == METADATA:
        # torch.distributed.checkpoint renames it to this when everything is written
        return True
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
            return True
    except (SafetensorError, ValueError):
        return False
    return zipfile.is_zipfile(path)
