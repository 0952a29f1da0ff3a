"""What fine-tuning a video LLM has changed, kept apart from the model it started from.

An adapter folder has

- `dna_adapter.safetensors`: every tensor that was trained, under its name in the model, but for LoRA's;
- `lora/`: LoRA's, as PEFT writes and reads them. They are not at the top, where transformers would find them: its
  `from_pretrained` would load the base and LoRA without the probes and modules, and say nothing;
- `dna_adapter.json`: the base and a fingerprint of its weights, the groups that were trained and their rates;
- the configuration and the processor of the model.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from ..errors import must_be_folder, told_as
from ..kinds import VIDEO_LLM, kind_of, kind_of_config, load_processor
from ..pretrained import ADAPTER_FILE, check_size, load_config, load_whole, read_config, tensor_shapes
from ..whole_files import whole_file
from .errors import ConfigurationError
from .parameter_groups import LORA, ParameterGroup


WEIGHTS_FILE = "dna_adapter.safetensors"
LORA_FOLDER = "lora"
LORA_WEIGHTS_FILE = "adapter_model.safetensors"
# of PEFT: what stands before names in its files, and the name of its adapter, which stands in those of parameters
PEFT_PREFIX, PEFT_NAME = "base_model.model.", ".default."
FINGERPRINT_VALUES = 16
Base = TypeVar("Base")


@dataclass(frozen=True)
class AdapterDescription:
    """What an adapter belongs to.

    Args:
        base: checkpoint that the adapter was trained on, as the run named it.
        base_revision: commit, tag or branch of a base on the Hub.
        base_fingerprint: [`fingerprint`] of the base; `None` where its weights were divided among processes (ZeRO
            stage 3).
        groups: groups of parameters that were trained: the fields of a
            [`~dna_hf.training.parameter_groups.ParameterGroup`] each.
    """

    base: str
    base_revision: str | None
    base_fingerprint: str | None
    groups: list[dict[str, Any]]

    @property
    def with_lora(self) -> bool:
        """Whether there is a folder of LoRA."""
        return any(group["name"] == LORA for group in self.groups)


def describe(
    base: str, revision: str | None, base_fingerprint: str | None, groups: list[ParameterGroup]
) -> AdapterDescription:
    """The description of an adapter, of the groups that are trained."""
    trained = [asdict(group) for group in groups if group.learning_rate is not None]
    return AdapterDescription(base, revision, base_fingerprint, trained)


def fingerprint(model: PreTrainedModel) -> str | None:
    """SHA-256 over names, shapes and first values of all parameters, the same in every dtype that the values survive.

    Taken of a base before anything of it is trained, it tells other weights of the same shapes.
    """
    if is_deepspeed_zero3_enabled():
        return None
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        values = parameter.detach().flatten()[:FINGERPRINT_VALUES].to(torch.bfloat16).float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {values.tolist()}\n".encode())
    return digest.hexdigest()


def load_base(
    source: str,
    revision: str | None = None,
    *,
    fields: Mapping[str, Any] | None = None,
    config: Any = None,
    dtype: torch.dtype | None = None,
) -> tuple[PreTrainedModel, Any]:
    """A whole video LLM and its processor.

    Args:
        source: folder, or name on the Hub.
        revision: commit, tag or branch on the Hub.
        fields: fields of the configuration with other values than the checkpoint's.
        config: configuration in place of the checkpoint's.
        dtype: dtype of the weights; by default the one in which they are stored.

    Raises:
        ConfigurationError: if it is missing, is no DnA video LLM, or does not fit the fields.
    """
    if Path(source, ADAPTER_FILE).is_file():
        raise ConfigurationError(f"checkpoint {source!r} is an adapter: dna-hf merge it first.")
    own_config = base_config(source, revision, fields)
    processor = load_processor(source, VIDEO_LLM, revision, ConfigurationError)
    model = load_whole(
        VIDEO_LLM.auto_model,
        source,
        revision=revision,
        config=own_config if config is None else config,
        dtype=dtype or "auto",
        error_class=ConfigurationError,
    )
    _agree(source, processor, model.config)
    return model, processor


def base_config(source: str, revision: str | None, fields: Mapping[str, Any] | None = None) -> Any:
    """The configuration of a DnA video LLM, with some fields replaced.

    Raises:
        ConfigurationError: see [`load_base`].
    """
    kind_of(source, revision, wanted=(VIDEO_LLM,), error_class=ConfigurationError)
    shapes = tensor_shapes(source, revision, ConfigurationError)
    check_size(source, read_config(source, revision, ConfigurationError), shapes, ConfigurationError)
    return load_config(source, revision, ConfigurationError, **(fields or {}))


def _agree(source: str, processor: Any, config: Any) -> None:
    """Have a processor make the sequences that a model takes.

    Raises:
        ConfigurationError: if their tokens differ.
    """
    processor.include_visual_tokens = config.include_visual_tokens
    processor.include_visual_probes = config.include_visual_probes
    wanted = {name: getattr(config, name) for name in processor.token_ids()}
    if processor.token_ids() != wanted or processor.num_probes != config.vision_config.num_probes:
        raise ConfigurationError(
            f"the processor of {source!r} does not belong to its model: it has {processor.num_probes} probes and "
            f"tokens {processor.token_ids()}, the model {config.vision_config.num_probes} and {wanted}."
        )


def save_adapter(
    folder: str | Path,
    model: PreTrainedModel,
    description: AdapterDescription,
    lora_config: Any = None,
    state_dict: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write what is trained of a model.

    Args:
        folder: folder to write to; made if it does not exist.
        model: model whose trained parameters are written.
        description: what the adapter belongs to.
        lora_config: the `peft.LoraConfig` that [`~dna_hf.training.parameter_groups.add_lora`] returned; `None`
            without LoRA.
        state_dict: tensors of the whole model by name, where its own are divided among processes.
        dtype: dtype to save in; training holds what it trains in float32.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.to(dtype) for name, tensor in trained_tensors(model, state_dict).items()}
    lora = {name: tensor for name, tensor in tensors.items() if PEFT_NAME in name}
    save_file({name: tensor for name, tensor in tensors.items() if name not in lora}, folder / WEIGHTS_FILE)
    if lora_config is not None:
        (folder / LORA_FOLDER).mkdir(exist_ok=True)
        lora_config.base_model_name_or_path = description.base
        lora_config.save_pretrained(folder / LORA_FOLDER)
        save_file(
            {PEFT_PREFIX + name.replace(PEFT_NAME, "."): tensor for name, tensor in lora.items()},
            folder / LORA_FOLDER / LORA_WEIGHTS_FILE,
            metadata={"format": "pt"},
        )
    write_description(folder, description, model.config)


def write_description(folder: Path, description: AdapterDescription, config: Any) -> None:
    """Write what an adapter belongs to beside it, and the configuration of the model that it makes.

    Args:
        folder: folder of the adapter.
        description: what the adapter belongs to.
        config: configuration of the model.
    """
    with whole_file(folder / "config.json") as unfinished:
        config.to_json_file(unfinished)
    with whole_file(folder / ADAPTER_FILE) as unfinished:
        unfinished.write_text(json.dumps(asdict(description), indent=2) + "\n", encoding="utf-8")


def trained_tensors(
    model: PreTrainedModel, state_dict: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The tensors of a model that are trained, by name."""
    state = model.state_dict() if state_dict is None else state_dict
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return {name: state[name].detach().cpu().contiguous() for name in names}


def read_description(folder: str | Path) -> AdapterDescription:
    """What an adapter belongs to.

    Raises:
        ConfigurationError: if the folder holds none.
    """
    path = must_be_folder(folder, ConfigurationError, "adapter") / ADAPTER_FILE
    if not path.is_file():
        raise ConfigurationError(f"{str(folder)!r} is no adapter: it has no {ADAPTER_FILE}.")
    with told_as(ConfigurationError, f"{str(path)!r} is damaged"):
        return AdapterDescription(**json.loads(path.read_text(encoding="utf-8")))


def read_tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of an adapter, under the names that they have in a model with LoRA.

    Raises:
        ConfigurationError: if a file is missing or damaged.
    """
    tensors = _load(Path(folder, WEIGHTS_FILE))
    if read_description(folder).with_lora:
        for name, tensor in _load(Path(folder, LORA_FOLDER, LORA_WEIGHTS_FILE)).items():
            tensors[name.removeprefix(PEFT_PREFIX).removesuffix(".weight") + f"{PEFT_NAME}weight"] = tensor
    return tensors


def _load(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ConfigurationError(f"the adapter is not whole: {str(path)!r} is missing.")
    with told_as(ConfigurationError, f"{str(path)!r} is no intact safetensors file"):
        return load_file(path)


@torch.no_grad()
def load_tensors(model: PreTrainedModel, folder: str | Path) -> None:
    """Give a model that is set up for training the tensors of an adapter.

    Raises:
        ConfigurationError: unless they are exactly those that are trained of the model.
    """
    own = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensors = read_tensors(folder)
    differing = sorted(own.keys() ^ tensors.keys()) or [n for n in own if own[n].shape != tensors[n].shape]
    if differing:
        raise ConfigurationError(
            f"the adapter in {str(folder)!r} does not fit the run: {len(differing)} tensors differ, first "
            f"{differing[0]!r}."
        )
    for name, parameter in own.items():
        parameter.copy_(tensors[name])


def load_adapted(
    folder: str | Path, base: str | None = None, *, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, Any]:
    """The model that an adapter makes of its base, and its processor. LoRA is added to the weights of the base.

    Args:
        folder: folder of the adapter.
        base: folder or name on the Hub of the base; by default where it was when the adapter was trained.
        dtype: dtype of the weights; by default the one in which the base is stored.

    Raises:
        ConfigurationError: if the base is missing, is another one, or the adapter is damaged.
    """
    description, config = read_description(folder), load_config(folder, None, ConfigurationError)
    if kind_of_config(config) is not VIDEO_LLM:
        raise ConfigurationError(f"adapter {str(folder)!r} is damaged: its config.json is of no {VIDEO_LLM.name}.")
    load = partial(load_base, config=config, dtype=dtype)
    model, processor = load_its_base(folder, description, base, load, lambda loaded: fingerprint(loaded[0]))
    _add(model, read_tensors(folder), folder)
    return model.eval(), processor


def load_its_base(
    folder: str | Path,
    description: AdapterDescription,
    base: str | None,
    load: Callable[[str, str | None], Base],
    fingerprint_of: Callable[[Base], str | None],
) -> Base:
    """The base of an adapter, if it is the one that the adapter was trained on.

    Args:
        folder: folder of the adapter, for messages.
        description: what the adapter belongs to.
        base: folder or name on the Hub of the base; `None`: where it was when the adapter was trained.
        load: `load(source, revision)`: the base in a folder, or of a name and a revision on the Hub.
        fingerprint_of: `fingerprint_of(base)`: the fingerprint that the description of the adapter has of its base.

    Raises:
        ConfigurationError: if the base cannot be loaded, or is another one.
    """
    source = description.base if base is None else base
    try:
        loaded = load(source, description.base_revision if base is None else None)
    except ConfigurationError as error:
        raise ConfigurationError(f"adapter {str(folder)!r} needs its base, {description.base!r}: {error}") from error
    if description.base_fingerprint not in (None, fingerprint_of(loaded)):
        raise ConfigurationError(
            f"adapter {str(folder)!r} was trained on other weights than those of {source!r}: give the base that it "
            f"was trained on, {description.base!r}."
        )
    return loaded


@torch.no_grad()
def _add(model: PreTrainedModel, tensors: dict[str, torch.Tensor], folder: str | Path) -> None:
    """Put the tensors of an adapter into its base, LoRA's as `weight + scale * B @ A`, computed in float32."""
    own = dict(model.named_parameters())
    updates = {name for name in tensors if PEFT_NAME in name}
    changes = {name: tensor for name, tensor in tensors.items() if name not in updates}
    scale = _lora_scale(folder) if updates else 0.0
    for name in sorted(updates):
        if ".lora_A." in name:
            target = name.replace(f".lora_A{PEFT_NAME}", ".")
            first, second = tensors[name].float(), tensors[name.replace(".lora_A.", ".lora_B.")].float()
            if target in own and own[target].shape == (len(second), first.shape[1]):
                device = own[target].device
                changes[target] = own[target].float() + scale * (second.to(device) @ first.to(device))
            else:
                changes[target] = second
    strangers = sorted(name for name in changes if name not in own or own[name].shape != changes[name].shape)
    if strangers:
        raise ConfigurationError(
            f"adapter {str(folder)!r} does not fit its base: {len(strangers)} tensors differ, first {strangers[0]!r}."
        )
    for name, tensor in changes.items():
        own[name].copy_(tensor)


def _lora_scale(folder: str | Path) -> float:
    """What LoRA's updates are multiplied by.

    Raises:
        ConfigurationError: for kinds of LoRA that this package does not train.
    """
    path = Path(folder, LORA_FOLDER, "adapter_config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        plain = not any(config.get(key) for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern"))
        if config["peft_type"] == "LORA" and plain:
            return config["lora_alpha"] / config["r"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"{str(path)!r} is missing or damaged.") from error
    raise ConfigurationError(f"{str(path)!r} describes another kind of LoRA than dna-hf trains.")
