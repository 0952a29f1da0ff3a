"""What must be there before a run starts: a folder to write to, room on the disk, a whole checkpoint."""

import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env
from safetensors import SafetensorError, safe_open
from torch.distributed.fsdp import StateDictType
from transformers import PreTrainedModel
from transformers.trainer_utils import get_last_checkpoint

from .adapter import DESCRIPTION_FILE, LORA_FOLDER, LORA_WEIGHTS_FILE, WEIGHTS_FILE
from .arguments import DnATrainingArguments, VideoLLMTrainingArguments
from .config_file import RunConfig
from .ema import EMA_FILE
from .errors import ConfigurationError


RUN_FILE = "run.yaml"
# of a folder that torch.distributed.checkpoint writes
METADATA = ".metadata"


def find_checkpoint(run: RunConfig, resume: bool) -> str | None:
    """The checkpoint to resume from, if any; guards the output folder.

    Raises:
        ConfigurationError: if the folder holds another run and `resume` is not set, or cannot be written, or there is
            nothing to resume, the checkpoint is damaged, or the run in the folder has another model or other data.
    """
    output_dir = run.output_dir
    if not resume:
        if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
            raise ConfigurationError(
                f"output_dir {str(output_dir)!r} is not empty: pass --resume to continue the run in it, or choose "
                "another --output_dir."
            )
        _check_writable(output_dir)
        return None
    checkpoint = get_last_checkpoint(str(output_dir)) if output_dir.is_dir() else None
    if checkpoint is None:
        raise ConfigurationError(f"there is no checkpoint to resume from in {str(output_dir)!r}.")
    record = output_dir / RUN_FILE
    if not record.exists():
        raise ConfigurationError(
            f"{str(output_dir)!r} has checkpoints but no {RUN_FILE}: dna-hf train did not write it."
        )
    earlier = yaml.safe_load(record.read_text(encoding="utf-8"))
    for section in ("model", "data"):
        before, now = earlier[section], run.sections[section]
        changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
        if changed:
            raise ConfigurationError(
                f"the run in {str(output_dir)!r} has {section}.{changed[0]} = {before.get(changed[0])!r}, not "
                f"{now.get(changed[0])!r}: a resumed run keeps its model and data."
            )
    _check_whole(Path(checkpoint), run.training)
    return checkpoint


def weights_size(model: PreTrainedModel) -> int:
    """Bytes of the weights of a model."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def check_disk(run: RunConfig, weights: int, besides: int = 0) -> None:
    """See that what the run will keep at a time fits on the disk: the model, and its checkpoints with Adam's moments.

    Args:
        run: says how many checkpoints are kept.
        weights: bytes of what is saved of the model.
        besides: bytes that each checkpoint holds besides it and Adam's moments.

    Raises:
        ConfigurationError: if it does not.
    """
    averages = 1 if run.training.ema_decay else 0
    # a new checkpoint is written before the oldest one goes
    checkpoints = 0 if run.training.save_strategy == "no" else (run.training.save_total_limit or 0) + 1
    needed = weights * (1 + averages + checkpoints * (3 + averages)) + checkpoints * besides
    free = shutil.disk_usage(_nearest_folder(run.output_dir)).free
    if free < needed:
        raise ConfigurationError(
            f"the run needs about {needed / 2**20:,.1f} MiB in {str(run.output_dir)!r}, but {free / 2**20:,.1f} MiB "
            "are free: make room, choose another output_dir, or keep fewer checkpoints (save_total_limit)."
        )


def _check_writable(folder: Path) -> None:
    """Raise an error if a folder cannot be made and written; nothing is left behind."""
    nearest = _nearest_folder(folder)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        reason = error.strerror if nearest.is_dir() else f"{str(nearest)!r} is a file"
        raise ConfigurationError(f"output_dir {str(folder)!r} cannot be written: {reason}.") from error


def _nearest_folder(folder: Path) -> Path:
    """The folder, or the nearest of its parents that exists."""
    return next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())


def _check_whole(checkpoint: Path, arguments: DnATrainingArguments) -> None:
    """Raise an error that names the first file of a checkpoint that is missing or truncated."""
    for name in checkpoint_files(arguments):
        path = checkpoint / name
        if path.is_file() and _is_whole(path):
            continue
        raise ConfigurationError(
            f"cannot resume: {str(path)!r} is {'damaged' if path.is_file() else 'missing'}; remove "
            f"{str(checkpoint)!r} to continue from the checkpoint before it."
        )


def checkpoint_files(arguments: DnATrainingArguments) -> list[str]:
    """What a process reads of a checkpoint, but for the files of DeepSpeed."""
    single = arguments.world_size == 1
    names = ["trainer_state.json", "rng_state.pth" if single else f"rng_state_{arguments.process_index}.pth"]
    if arguments.ema_decay:
        names.append(EMA_FILE)
    if arguments.deepspeed_plugin is not None:
        return names
    names.append("scheduler.pt")
    if not is_sharded(arguments):
        return [*names, *_weights_files(arguments), "optimizer.pt"]
    # as the Trainer makes it: from the arguments, or from what `accelerate launch` sets
    plugin = FullyShardedDataParallelPlugin(**(arguments.fsdp_plugin_args or {}))
    if plugin.state_dict_type == StateDictType.FULL_STATE_DICT:
        return [*names, "pytorch_model_fsdp.bin", "optimizer.bin"]
    return [*names, *(f"{folder}/{METADATA}" for folder in ("pytorch_model_fsdp_0", "optimizer_0"))]


def _weights_files(arguments: DnATrainingArguments) -> list[str]:
    if not isinstance(arguments, VideoLLMTrainingArguments):
        return ["model.safetensors"]
    lora = [f"{LORA_FOLDER}/{LORA_WEIGHTS_FILE}"] if arguments.with_lora else []
    return [WEIGHTS_FILE, DESCRIPTION_FILE, *lora]


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
