"""The authors' VisCoP with its language model: complete, or as what was trained on top of a VideoLLaMA3.

| file | what it holds |
|---|---|
| `config.json` | of the language model; `interaction_module`, `interaction_module_layers`, `num_visual_probes`, ... |
| `model.safetensors`, `pytorch_model.bin`, or several and their index | everything, of a complete checkpoint |
| `adapter_config.json`, `adapter_model.bin` | LoRA of the language model |
| `non_lora_trainables.bin`; `mm_projector.bin` without LoRA | probes, interaction modules, both projectors |

What the configuration says is what is loaded, however the folder is called, and every tensor has to fit.
"""

import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from ..models import DnAVideoLlama3ForConditionalGeneration, DnAVideoLlama3VisionConfig
from ..pretrained import check_size
from .authors_viscop import NEGATED, branch_notes, convert_vision_encoder, self_check
from .errors import ConversionError
from .files import read_state_dict
from .loading import has_file, read_json, read_weights
from .lora import ADAPTER_CONFIG, Adapter, merge_lora, read_adapter
from .options import Options
from .report import Conversion, ConversionReport
from .tensors import TensorMap
from .video_encoder import CONFIG_FIELDS
from .video_llm import (
    LLM_FIELDS,
    VideoLlm,
    map_video_llm,
    note_rows,
    own_config,
    own_family,
    read_generation_config,
    read_video_llm,
    set_generation_config,
    video_llm_config,
)
from .video_llm_names import HEAD, LANGUAGE, MODULES, PROBES, VISION, native_name, own_name, places
from .video_llm_processor import video_llm_processor
from .vit_layout import count_layers


# what was trained beside LoRA, and without LoRA
TRAINED = ("non_lora_trainables.bin", "mm_projector.bin")
# what VisCoP calls the attention of its interaction modules
KINDS = {"cross_denoising_attention": "dna", "cross_attention": "softmax"}
SCALES = ".attention.negative_scale"


def is_viscop_folder(folder: str) -> bool:
    """Whether a folder says that it is of VisCoP: by its configuration, or by what training with LoRA leaves."""
    if has_file(folder, ADAPTER_CONFIG) and has_file(folder, TRAINED[0]):
        return True
    return has_file(folder, "config.json") and own_family(read_json(folder, "config.json")) == "authors-viscop"


class _Source(NamedTuple):
    """What a checkpoint holds.

    Args:
        llm: model with all tensors, those of its base included.
        found: name of the tensor that counts, by the name in the model.
        adapter: LoRA adapter, `None` if there is none.
        replaced: tensors of the base that do not count, and why.
        folders: folders or names on the Hub where the processor may be.
    """

    llm: VideoLlm
    found: dict[str, str]
    adapter: Adapter | None
    replaced: dict[str, str]
    folders: list[str]


def convert_viscop(path: str | Path, sign: int, options: Options) -> Conversion:
    """Convert a file or folder of VisCoP, with its language model or without.

    Raises:
        ConversionError: see [`~dna_hf.conversion.convert_authors_checkpoint`].
    """
    name, is_folder = str(path), Path(path).is_dir()
    if is_folder and any(has_file(name, file) for file in (ADAPTER_CONFIG, *TRAINED)):
        config = _settings(name, name)
        return _convert(name, config, _with_base(name, config, options), sign, options)
    if options.base_model is not None:
        raise ConversionError(f"{name!r} is no LoRA and needs nothing below it: it has no base_model.")
    tensors = read_weights(name, None) if is_folder else read_state_dict(path)
    if not any(native_name(key).startswith((f"{LANGUAGE}layers.", f"{LANGUAGE}embed", HEAD)) for key in tensors):
        conversion = convert_vision_encoder(name, tensors, sign, options)
        if options.dtype is not None:
            conversion.model.to(options.dtype)  # type: ignore[arg-type]
        return conversion
    folder = name if is_folder else str(Path(path).parent)
    config = _settings(name, folder)
    check_size(name, config, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, ConversionError)
    native = _native_config(name, config, tensors, options.num_attention_heads)
    llm = VideoLlm(name, "authors-viscop", tensors, native, config)
    source = _Source(llm, places(name, tensors), None, {}, [folder])
    return _convert(name, config, source, sign, options)


def _settings(name: str, folder: str) -> dict[str, Any]:
    if not has_file(folder, "config.json"):
        raise ConversionError(f"{name!r} has a language model, which needs its config.json beside it.")
    return read_json(folder, "config.json")


def _convert(name: str, config: dict[str, Any], source: _Source, sign: int, options: Options) -> Conversion:
    llm, found, adapter = source.llm, source.found, source.adapter
    report = ConversionReport(name, "authors-viscop", [])
    vision = _encoder_config(name, config, llm, found, options.interaction_layers)
    fields = {field: config[field] for field in LLM_FIELDS if field in config}
    report.processor = video_llm_processor(report, source.folders, vision, fields, config, None)
    full, rows = video_llm_config(llm.config, vision, report.processor, fields)
    mapping = TensorMap(name, llm.tensors, options.dtype, copy=True)
    for key, reason in source.replaced.items():
        mapping.drop(key, reason)
    changes: dict[str, Any] = {}
    if sign == -1:
        changes |= {place: partial(_negate, mapping) for place in found if place.endswith(SCALES)}
    if adapter is not None:
        changes |= _merges(mapping, adapter, found)
    map_video_llm(mapping, full, found, rows, own_name, changes=changes)
    model: Any = mapping.build_large(DnAVideoLlama3ForConditionalGeneration, full)
    stated = (read_generation_config(folder, None) for folder in source.folders)
    set_generation_config(model, llm.model.generation_config if llm.model else next(filter(None, stated), None))
    report.records = mapping.records
    report.notes += branch_notes(vision.attention_variant, sign, options)
    if adapter is not None:
        merged = f"{len(adapter.pairs)} adapters of rank {adapter.rank}, times {adapter.scale:g}"
        report.notes.append(f"merged into {llm.name}: {merged}")
    note_rows(report, llm.config, full)
    # as the result rounds them
    seen = {
        own_name(place).removeprefix(own_name(VISION)): llm.tensors[key].to(model.dtype)
        for place, key in found.items()
        if place.startswith(VISION)
    }
    report.max_difference = self_check(copy.deepcopy(model.model.vision_model), seen, sign)
    report.compared = "the vision encoder and a plain evaluation of its source tensors, in float64"
    return Conversion(model, report)


def _negate(mapping: TensorMap, source: str, place: str) -> None:
    mapping.copy(source, place, *NEGATED)


def _native_config(
    name: str, config: dict[str, Any], tensors: dict[str, torch.Tensor], num_attention_heads: int | None
) -> Any:
    if own_family(config) is None:
        raise ConversionError(
            f"config.json beside {name!r} is of model_type {config.get('model_type')!r}, none of VisCoP, as "
            "'viscop_qwen2'."
        )
    return own_config(name, config, tensors, _heads(tensors) if num_attention_heads is None else num_attention_heads)


def _heads(tensors: dict[str, torch.Tensor]) -> int | None:
    """The number of heads, where the tensors tell it."""
    return next(
        (len(tensors[key]) for key in tensors if native_name(key).endswith(SCALES) and tensors[key].dim()), None
    )


def _with_base(folder: str, config: dict[str, Any], options: Options) -> _Source:
    """What was trained, and the model below it."""
    base_model = options.base_model
    if base_model is None:
        recorded = config.get("_name_or_path")
        hint = f"; it was trained from {recorded!r}" if recorded else ""
        raise ConversionError(
            f"{folder!r} holds what was trained alone: give base_model (--base-model), the VideoLLaMA3 below it{hint}."
        )
    adapter = read_adapter(folder) if has_file(folder, ADAPTER_CONFIG) else None
    file = TRAINED[0] if adapter is not None else next(file for file in TRAINED if has_file(folder, file))
    if not has_file(folder, file):
        raise ConversionError(f"folder {folder!r} has no {file}: probes and interaction modules are missing.")
    trained = read_state_dict(Path(folder, file))
    heads = options.num_attention_heads or _heads(trained)
    source = base_model if isinstance(base_model, PreTrainedModel) else str(base_model)
    base = read_video_llm(source, None, options.dtype, heads)
    found = places(base.name, base.tensors)
    own = {place: f"{file}:{key}" for place, key in places(f"{file} of {folder!r}", trained).items()}
    replaced = {found[place]: f"replaced by that of {file}" for place in own if place in found}
    tensors = base.tensors | {f"{file}:{key}": tensor for key, tensor in trained.items()}
    if adapter is not None:
        tensors |= {f"{adapter.file}:{key}": tensor for key, tensor in adapter.tensors.items()}
    below = source if isinstance(source, str) else source.name_or_path or ""
    folders = [folder, below] if isinstance(source, str) or (below and Path(below).is_dir()) else [folder]
    return _Source(base._replace(tensors=tensors), found | own, adapter, replaced, folders)


def _merges(mapping: TensorMap, adapter: Adapter, found: dict[str, str]) -> dict[str, Any]:
    """How the weights that have an adapter are copied; notes what has one and should not, and the reverse."""
    changes = {}
    for module, pair in adapter.pairs.items():
        place = f"{native_name(module)}.weight"
        if place not in found or not place.startswith(LANGUAGE):
            mapping.problems.append(f"{adapter.file}:{pair[0]!r} is for no module of the language model")
            continue
        keys = (f"{adapter.file}:{pair[0]}", f"{adapter.file}:{pair[1]}")
        changes[place] = partial(_merge, mapping, keys, adapter)
    for place, key in found.items():
        module = own_name(place).removesuffix(".weight")
        is_layer = place.startswith(f"{LANGUAGE}layers.") and mapping.source[key].dim() == 2
        if is_layer and place not in changes and adapter.is_target(module):
            mapping.problems.append(f"{adapter.file} has nothing for {module!r}, which is one of its target_modules")
    return changes


def _merge(mapping: TensorMap, pair: tuple[str, str], adapter: Adapter, source: str, place: str) -> None:
    merge_lora(mapping, source, pair, place, adapter.rank, adapter.scale)


def _encoder_config(
    name: str,
    config: dict[str, Any],
    llm: VideoLlm,
    found: dict[str, str],
    interaction_layers: Sequence[int] | None,
) -> DnAVideoLlama3VisionConfig:
    """The configuration of the encoder: what `config.json` says, which the tensors must bear out.

    Raises:
        ConversionError: if they contradict it.
    """
    inner = {place.removeprefix(VISION): llm.tensors[key] for place, key in found.items() if place.startswith(VISION)}
    probes = inner.get(PROBES)
    if probes is None or probes.dim() != 3 or not probes.numel():
        what = "no visual probes" if probes is None else f"visual probes of shape {tuple(probes.shape)}"
        raise ConversionError(f"{name!r} has {what}: it is no checkpoint of the authors' VisCoP.")
    variant = "dna" if any(key.endswith(SCALES) for key in inner) else "softmax"
    stated = config.get("interaction_module")
    if stated is not None and stated not in KINDS:
        known = " and ".join(map(repr, KINDS))
        raise ConversionError(f"config.json of {name!r} says interaction_module {stated!r}: known are {known}.")
    if stated is not None and KINDS[stated] != variant:
        kind = next(kind for kind, of in KINDS.items() if of == variant)
        raise ConversionError(f"config.json of {name!r} says interaction_module {stated!r}, but it holds {kind!r}.")
    count = config.get("num_visual_probes", probes.shape[1])
    if count != probes.shape[1]:
        raise ConversionError(f"config.json of {name!r} says num_visual_probes {count}, but it has {probes.shape[1]}.")
    layers, modules = llm.config.vision_config.num_hidden_layers, count_layers(inner, MODULES)
    read = _layers(name, config.get("interaction_module_layers"))
    if interaction_layers is not None:
        if "interaction_module_layers" in config and list(interaction_layers) != (read or list(range(layers))):
            raise ConversionError(
                f"config.json of {name!r} says interaction_module_layers {config['interaction_module_layers']!r}, not "
                f"{interaction_layers}: leave interaction_layers out."
            )
        read = list(interaction_layers)
    if len(read or range(layers)) != modules:
        raise ConversionError(
            f"{name!r} has {modules} interaction modules for {len(read or range(layers))} layers: its config.json "
            "(interaction_module_layers), or interaction_layers, must say which they read."
        )
    fields = {field: copy.deepcopy(getattr(llm.config.vision_config, field)) for field in CONFIG_FIELDS}
    fields |= {"num_probes": probes.shape[1], "interaction_layers": read, "attention_variant": variant}
    return DnAVideoLlama3VisionConfig(**fields)


def _layers(name: str, stated: Any) -> list[int] | None:
    """The layers that `config.json` says the modules read; `None` for all."""
    if stated is None or stated == "all":
        return None
    words = stated.split(",") if isinstance(stated, str) else stated
    try:
        return [int(word) for word in words]
    except (TypeError, ValueError):
        raise ConversionError(
            f"config.json of {name!r} says interaction_module_layers {stated!r}, no numbers of layers."
        ) from None
