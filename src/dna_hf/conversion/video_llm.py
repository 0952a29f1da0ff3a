"""VideoLLaMA3 to DnA: transformers' own, as its own code saves it, and its vision encoder alone.

Every tensor of the source is copied, see [`dna_hf.conversion.video_llm_names`]. New are the probes and the modules
that read the layers, see [`dna_hf.conversion.video_encoder`]; the projector of the probes, which begins as a copy of
the projector; and rows of the vocabulary for placeholders that have no room in it.

Nothing that was trained is made anew: a source that has probes or modules is refused.
"""

import copy
from collections.abc import Callable
from itertools import chain, count
from typing import Any, NamedTuple

import torch
import transformers
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedModel, VideoLlama3Config

from ..errors import told_as
from ..models import DnAVideoLlama3Config, DnAVideoLlama3ForConditionalGeneration, DnAVideoLlama3Processor
from ..pretrained import check_size
from .errors import ConversionError
from .loading import has_file, load_exactly, read_config, read_weights, saved_class
from .options import Options
from .report import Conversion, ConversionReport
from .tensors import EXACT_TOLERANCE, TensorMap
from .video_encoder import (
    convert_video_encoder,
    encoder_config,
    encoder_sizes,
    random_visual,
    start_interactions,
)
from .video_llm_names import HEAD, MODULES, PROBE_PROJECTOR, PROBES, PROJECTOR, VISION, own_name, places
from .video_llm_processor import video_llm_processor


# transformers' models and the DnA models made of them
FAMILIES = ("video_llama_3", "video_llama_3_vision")
DNA_FAMILIES = ("dna_video_llama3", "dna_video_llama3_vision")
NATIVE_CLASSES = {
    "VideoLlama3ForConditionalGeneration": "video_llama_3",
    "VideoLlama3VisionModel": "video_llama_3_vision",
}
# what the programs of VideoLLaMA3 and of VisCoP call themselves, before the name of the language model
OWN_FAMILIES = {"videollama3_": "videollama3", "viscop_": "authors-viscop"}
LLM_FIELDS = ("include_visual_tokens", "include_visual_probes")
PLACEHOLDERS = ("image_token_id", "video_token_id", "image_probe_token_id", "video_probe_token_id")
# the tokenizer of Qwen 2.5 ends here, the padded vocabulary does not
UNUSED_QWEN_ROW = 151665
NEW_PARTS = (VISION + MODULES, VISION + PROBES, PROBE_PROJECTOR)


class VideoLlm(NamedTuple):
    """A VideoLLaMA3 that was read, or the base of one.

    Args:
        name: what to call the model in messages.
        family: `"video_llama_3"` (transformers), `"videollama3"` (its own code) or `"authors-viscop"`.
        tensors: tensors by the names that the source gives them.
        config: configuration in transformers' form.
        settings: `config.json` that the model's own code wrote; empty for transformers'.
        model: transformers' model, `None` if the source is another one.
        owned: whether nobody else holds the tensors.
    """

    name: str
    family: str
    tensors: dict[str, torch.Tensor]
    config: Any
    settings: dict[str, Any]
    model: Any = None
    owned: bool = False


def is_video_llm(config: dict[str, Any]) -> bool:
    """Whether a `config.json` is that of a video language model, or of the vision encoder of one."""
    return config.get("model_type") in (*FAMILIES, *DNA_FAMILIES) or own_family(config) is not None


def own_family(config: dict[str, Any]) -> str | None:
    """The family of a `config.json` that VideoLLaMA3's own code or VisCoP wrote, `None` for others."""
    model_type = str(config.get("model_type"))
    return next((family for prefix, family in OWN_FAMILIES.items() if model_type.startswith(prefix)), None)


def convert_video_llm(source: str | PreTrainedModel, options: Options, name: str | None) -> Conversion:
    """Convert a model, or a folder or repository that is one by its `config.json`.

    Args:
        source: folder, name on the Hub, or transformers' model.
        options: request that says how to convert.
        name: folder or name on the Hub where its processor is, if there is one.

    Raises:
        ConversionError: see [`~dna_hf.conversion.from_pretrained_softmax`].
    """
    revision = options.revision
    family = _family(source, revision)
    # what VisCoP saves is a VideoLLaMA3, if it has no probes
    options.check(_name(source), "videollama3" if family == "authors-viscop" else family)
    if family == "video_llama_3_vision":
        if isinstance(source, str):
            source = load_exactly(source, transformers.VideoLlama3VisionModel, revision, options.dtype)
        return convert_video_encoder(source, options)
    llm = read_video_llm(source, revision, options.dtype, options.num_attention_heads)
    found = places(llm.name, llm.tensors)
    if trained := [key for place, key in found.items() if place.startswith(NEW_PARTS)]:
        raise ConversionError(
            f"{llm.name!r} has visual probes already, as {trained[0]!r}: load_authors_checkpoint, or --from "
            "authors-viscop, keeps them."
        )
    vision = encoder_config(llm.config.vision_config, options)
    report = ConversionReport(llm.name, llm.family, [])
    names = [] if name is None else [name]
    report.processor = video_llm_processor(report, names, vision, options.shown, llm.settings, revision)
    config, rows = video_llm_config(llm.config, vision, report.processor, options.shown)
    mapping = TensorMap(llm.name, llm.tensors, options.dtype, copy=not llm.owned)
    dtype = options.dtype or next(iter(llm.tensors.values())).dtype
    map_video_llm(mapping, config, found, rows, lambda place: own_name(place, viscop=False), NEW_PARTS)
    start_interactions(mapping, vision, options, dtype, VISION)
    _start_probe_projector(mapping)
    model = mapping.build_large(DnAVideoLlama3ForConditionalGeneration, config)
    set_generation_config(model, llm.model.generation_config if llm.model else read_generation_config(name, revision))
    report.records = mapping.records
    note_rows(report, llm.config, config)
    _compare(report, llm.model, model)
    return Conversion(model, report)


def _name(source: str | PreTrainedModel) -> str:
    return source if isinstance(source, str) else source.name_or_path or type(source).__name__


def _family(source: str | PreTrainedModel, revision: str | None) -> str:
    """Kind of a source: `"video_llama_3"`, `"video_llama_3_vision"`, `"videollama3"` or `"authors-viscop"`.

    Raises:
        ConversionError: if it is nothing that can be converted.
    """
    if isinstance(source, PreTrainedModel):
        family, name, architecture = source.config.model_type, type(source).__name__, type(source).__name__
    else:
        config = read_config(source, revision)
        own = own_family(config)
        if own is not None:
            return own
        family, name, architecture = config["model_type"], source, saved_class(config) or ""
    if family in DNA_FAMILIES:
        raise ConversionError(f"{name!r} is a DnA model already, a {family!r}: load it with from_pretrained.")
    if architecture not in NATIVE_CLASSES:
        raise ConversionError(f"cannot convert {name!r}, a {architecture!r}: known are {', '.join(NATIVE_CLASSES)}.")
    return NATIVE_CLASSES[architecture]


def read_video_llm(
    source: str | PreTrainedModel,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    num_attention_heads: int | None = None,
) -> VideoLlm:
    """Read a VideoLLaMA3 of transformers or of its own code.

    Args:
        source: folder, name on the Hub, or model.
        revision: commit, tag or branch on the Hub.
        dtype: type to load transformers' model in; its own by default.
        num_attention_heads: attention heads of the vision encoder, where no file says it.

    Raises:
        ConversionError: if it is none, or cannot be read.
    """
    if isinstance(source, PreTrainedModel):
        name = _name(source)
        _check_native(name, source.config.model_type)
        return VideoLlm(name, source.config.model_type, source.state_dict(), source.config, {}, source)
    config = read_config(source, revision)
    family = own_family(config)
    if family is None:
        _check_native(source, config.get("model_type"))
        native_class = transformers.VideoLlama3ForConditionalGeneration
        model = load_exactly(source, native_class, revision, dtype)
        return VideoLlm(source, model.config.model_type, model.state_dict(), model.config, {}, model, owned=True)
    tensors = read_weights(source, revision)
    check_size(source, config, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, ConversionError)
    native = own_config(source, config, tensors, num_attention_heads)
    return VideoLlm(source, family, tensors, native, config)


def _check_native(name: str, family: str | None) -> None:
    if family != FAMILIES[0]:
        raise ConversionError(f"{name!r} is no VideoLLaMA3 with its language model, but a {family!r}.")


def own_config(
    name: str, config: dict[str, Any], tensors: dict[str, torch.Tensor], num_attention_heads: int | None
) -> VideoLlama3Config:
    """The configuration, in transformers' form, of a model that its own code saved.

    That has the fields of the language model at its top; of the encoder, the tensors say what it may leave out.

    Raises:
        ConversionError: for a language model that transformers does not know, or an encoder that is none.
    """
    text_type = str(config["model_type"]).partition("_")[2]
    if text_type not in CONFIG_MAPPING:
        raise ConversionError(
            f"cannot convert {name!r}, a {config['model_type']!r}: transformers knows no language model {text_type!r}."
        )
    known = {*CONFIG_MAPPING[text_type]().to_dict(), "rope_theta", "rope_scaling"}
    known -= {"model_type", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"}
    text = {key: value for key, value in config.items() if key in known and not key.startswith("_")}
    encoder = {place.removeprefix(VISION): tensors[key] for place, key in places(name, tensors).items()}
    stated = config.get("vision_encoder_config")
    vision = encoder_sizes(name, encoder, num_attention_heads, stated if isinstance(stated, dict) else {})
    image_token = config.get("image_token_index")
    fields: dict[str, Any] = (
        {"image_token_id": image_token} if isinstance(image_token, int) and image_token > 0 else {}
    )
    return VideoLlama3Config(
        **fields,
        text_config={**text, "model_type": text_type},
        vision_config=vision,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )


def video_llm_config(
    native: Any,
    vision: Any,
    processor: DnAVideoLlama3Processor | None,
    fields: dict[str, Any],
) -> tuple[DnAVideoLlama3Config, int]:
    """The configuration of the model, and how many rows its vocabulary has more than the source's.

    Args:
        native: configuration of the source.
        vision: configuration of the encoder with probes.
        processor: processor whose tokenizer has the placeholders; without one, they are chosen.
        fields: further fields of the configuration.
    """
    text = copy.deepcopy(native.text_config)
    size = text.vocab_size
    ids = choose_token_ids(native) if processor is None else processor.token_ids()
    text.vocab_size = max(size, *(token_id + 1 for token_id in ids.values()))
    values: dict[str, Any] = {**fields, **ids, "tie_word_embeddings": native.tie_word_embeddings}
    return DnAVideoLlama3Config(text_config=text, vision_config=vision, **values), text.vocab_size - size


def choose_token_ids(native: Any) -> dict[str, int]:
    """Placeholders without a tokenizer: the source's, unused rows of Qwen's vocabulary, or new rows behind it.

    Of other language models, no row is known to be unused.
    """
    size = native.text_config.vocab_size
    unused = range(UNUSED_QWEN_ROW, size) if "qwen" in native.text_config.model_type else ()
    ids: dict[str, int] = {}
    for name, token_id in {"image_token_id": native.image_token_id, "video_token_id": native.video_token_id}.items():
        if token_id < size and token_id not in ids.values():
            ids[name] = token_id
    for name in PLACEHOLDERS:
        if name not in ids:
            ids[name] = next(token_id for token_id in chain(unused, count(size)) if token_id not in ids.values())
    return ids


def map_video_llm(
    mapping: TensorMap,
    config: Any,
    found: dict[str, str],
    rows: int,
    name_of: Callable[[str], str],
    new_parts: tuple[str, ...] = (),
    changes: dict[str, Callable[[str, str], None]] | None = None,
) -> None:
    """Copy every tensor that the source has, or should have.

    Args:
        mapping: map that takes the tensors.
        config: configuration of the model.
        found: name in the source by the name in the model.
        rows: number of rows that are added to the vocabulary of the source.
        name_of: function from a name in the model to what the source would call a tensor that is missing.
        new_parts: beginnings of the names of tensors that no source has.
        changes: name in the model -> function that is called with the names in source and model instead of copying.
    """
    with torch.device("meta"):
        model = DnAVideoLlama3ForConditionalGeneration(config)
    embeddings = model.get_input_embeddings()
    embedding = next(f"{name}.weight" for name, module in model.named_modules() if module is embeddings)
    tied = config.tie_word_embeddings and f"{HEAD}weight" not in found
    for place in model.state_dict():
        if place.startswith(new_parts) or (tied and place == f"{HEAD}weight"):
            continue
        source = found.get(place, name_of(place))
        if changes and place in changes:
            changes[place](source, place)
        elif rows and place in (embedding, f"{HEAD}weight"):
            grow = _with_rows(config.text_config.vocab_size, rows)
            mapping.copy(source, place, grow, reason=f"and {rows} new rows, means of others")
        else:
            mapping.copy(source, place)
    if config.tie_word_embeddings and not tied:
        _check_tied(mapping, embedding)
    if tied:
        mapping.new(f"{HEAD}weight", mapping.tensors.get(embedding), f"tied to {embedding}")


def _check_tied(mapping: TensorMap, embedding: str) -> None:
    """Refuse an output layer that is another than the embedding, although the configuration ties them."""
    one, other = mapping.tensors.get(embedding), mapping.tensors.get(f"{HEAD}weight")
    if one is not None and other is not None and not torch.equal(one, other):
        mapping.problems.append(f"'{HEAD}weight' is not the embedding, although tie_word_embeddings is set")


def _with_rows(size: int, rows: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Add rows to the embeddings: means, which no token is nearest to, of different rows, so that they differ."""

    def change(weight: torch.Tensor) -> torch.Tensor:
        if len(weight) + rows != size:
            return weight  # misshaped, as is found later
        means = [weight[start::rows].float().mean(dim=0) for start in range(rows)]
        return torch.cat((weight, torch.stack(means).to(weight.dtype)))

    return change


def _start_probe_projector(mapping: TensorMap) -> None:
    for place, tensor in list(mapping.tensors.items()):
        if place.startswith(PROJECTOR) and tensor is not None:
            target = PROBE_PROJECTOR + place.removeprefix(PROJECTOR)
            mapping.new(target, tensor.clone(), f"copy of {place}")


def set_generation_config(model: PreTrainedModel, source: GenerationConfig | None) -> None:
    """Generate as the source does, but no placeholders."""
    if source is None:
        return
    mine: Any = model.generation_config
    model.generation_config = copy.deepcopy(source)
    suppressed = {*(source.suppress_tokens or ()), *(mine.suppress_tokens or ())}
    model.generation_config.suppress_tokens = sorted(suppressed)


def read_generation_config(name: str | None, revision: str | None) -> GenerationConfig | None:
    """The generation configuration of a folder or repository, `None` if it has none."""
    if name is None or not has_file(name, "generation_config.json", revision):
        return None
    with told_as(ConversionError, f"cannot read generation_config.json of {name!r}"):
        return GenerationConfig.from_pretrained(name, revision=revision or "main")


def note_rows(report: ConversionReport, native: Any, config: Any) -> None:
    """Say which tokens became placeholders."""
    size = native.text_config.vocab_size
    added = config.text_config.vocab_size - size
    if added:
        report.notes.append(f"the vocabulary grew from {size} to {size + added} rows, for placeholders")
    ids = ", ".join(
        f"{name.removesuffix('_token_id')} {value}" for name, value in config.placeholder_token_ids.items()
    )
    report.notes.append(f"placeholder tokens: {ids}")


@torch.no_grad()
def _compare(report: ConversionReport, source: Any, model: Any) -> None:
    """Run source and result on one random image in a text, without the probes; refuse a difference.

    As they are, without copies: they are large.

    Raises:
        ConversionError: if the result is another model.
    """
    if source is None:
        report.notes.append("not compared with the source: that runs in its own code alone")
        return
    size = source.config.text_config.vocab_size
    if source.dtype != model.dtype or source.device != model.device or source.config.image_token_id >= size:
        report.notes.append("not compared with the source: it has another dtype, another device, or no placeholders")
        return
    visual = random_visual(model.config.vision_config)
    inputs = {
        "pixel_values": visual["pixel_values"].to(model.dtype),
        "image_grid_thw": visual["grid_thw"],
        "image_merge_sizes": visual["merge_sizes"],
    }
    tokens = int(visual["grid_thw"].prod() // visual["merge_sizes"].square())
    words = [token for token in range(size) if token not in model.config.placeholder_token_ids.values()][:8]

    def logits(llm: Any) -> torch.Tensor:
        ids = torch.tensor([[*words, *[llm.config.image_token_id] * tokens, *reversed(words)]])
        return llm(input_ids=ids, **inputs).logits[..., :size]

    flags = {name: getattr(model.config, name) for name in LLM_FIELDS}
    was_training = source.training
    try:
        source.eval()
        model.config.include_visual_tokens, model.config.include_visual_probes = True, False
        expected, found = logits(source), logits(model)
    finally:
        source.train(was_training)
        for name, value in flags.items():
            setattr(model.config, name, value)
    report.max_difference = (found - expected).abs().max().item()
    report.compared = "logits of the source and, without its probes, of the model"
    tolerance = EXACT_TOLERANCE[torch.finfo(model.dtype).bits >= 32] * max(1.0, expected.abs().max().item())
    if not report.max_difference <= tolerance:
        raise ConversionError(
            f"the converted model differs from {report.source!r} by {report.max_difference:.1e}: it has something "
            "that this conversion does not know; please report it."
        )
