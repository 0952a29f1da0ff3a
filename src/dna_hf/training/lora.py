"""LoRA for classifiers: low-rank updates of the attentions, with the head and alpha trained beside them.

A finished run has, at the top of its folder, what PEFT writes and reads (`adapter_config.json`,
`adapter_model.safetensors`), the configuration and the processor of the model, and `dna_adapter.json`, which says what
the adapter belongs to. `dna-hf merge` makes a whole model of it.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from ..errors import told_as
from ..kinds import CLASSIFIERS, kind_of_config, load_processor
from ..models.attention_variants import DenoisingAttention, VariantAttention
from ..pretrained import load_config, load_whole
from .adapter import LORA_WEIGHTS_FILE, AdapterDescription, fingerprint, load_its_base, read_description
from .config_file import ClassifierRun
from .errors import ConfigurationError


# what PEFT finds alpha by, which is the end of the name of a module
ALPHA = "negative_scale"


def check_lora(run: ClassifierRun) -> None:
    """See that a run can have LoRA, if it asks for it.

    Raises:
        ConfigurationError: for what does not go together with LoRA.
    """
    if run.peft.r is None:
        return
    if run.model_arguments.checkpoint is None:
        raise ConfigurationError(
            "section 'peft': updates are for trained weights, and a fresh model has none: set model.checkpoint."
        )
    training = run.training
    refused = {
        "ema_decay": bool(training.ema_decay),
        "freeze": training.freeze is not None,
        "push_to_hub": training.push_to_hub,
        "fsdp": bool(training.fsdp),
        "deepspeed": training.deepspeed_plugin is not None,
    }
    for name, is_set in refused.items():
        if is_set:
            fix = "publish what dna-hf merge makes of the run" if name == "push_to_hub" else "leave one of them out"
            raise ConfigurationError(f"section 'peft' does not go with training.{name}: {fix}.")


def add_lora(model: PreTrainedModel, run: ClassifierRun) -> Any:
    """Freeze a classifier, put updates beside its linear layers, and have its head and alpha trained.

    Args:
        model: classifier of images or videos; changed in place.
        run: the run, whose section `peft` has a rank.

    Returns:
        The `peft.PeftModel` around it.

    Raises:
        ConfigurationError: without PEFT, or for a layer or module that the model does not have.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigurationError("section 'peft' needs PEFT: pip install 'dna-hf[llm]'.") from error
    options, linear = run.peft, _linear_layers(model)
    # in the order of the model; a set would give another one in every process
    attentions = dict.fromkeys(
        name.rpartition(".")[2]
        for attention in model.modules()
        if isinstance(attention, VariantAttention)
        for name, module in attention.named_modules()
        if isinstance(module, torch.nn.Linear)
    )
    targets = list(attentions) if options.target_modules is None else options.target_modules
    _must_have("target_modules", targets, "linear layer", linear)
    whole = _trainable_modules(model)
    saved = list(whole) if options.modules_to_save is None else options.modules_to_save
    _must_have("modules_to_save", saved, "module", whole)
    head = next(iter(whole))
    if head not in saved:
        raise ConfigurationError(
            f"peft.modules_to_save: the head, {head!r}, is new for the classes of the data and must be among them."
        )
    config = LoraConfig(
        r=options.r or 0,
        lora_alpha=options.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=options.lora_dropout,
        target_modules=targets,
        modules_to_save=saved,
        revision=run.model_arguments.checkpoint_revision,
    )
    config.base_model_name_or_path = run.model_arguments.checkpoint
    # as transformers would write it: the base may have been a body
    model.config.architectures = [type(model).__name__]
    return get_peft_model(model, config)  # type: ignore[arg-type]


def _linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of the linear layers, each once, without the head."""
    found = [name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    head = _head(model)
    return [name for name in dict.fromkeys(found) if name != head]


def _trainable_modules(model: PreTrainedModel) -> list[str]:
    """What can be trained whole: the head and, where there is one, alpha."""
    has_alpha = any(isinstance(module, DenoisingAttention) for module in model.modules())
    return [_head(model), *([ALPHA] if has_alpha else [])]


def _head(model: PreTrainedModel) -> str:
    kind = kind_of_config(model.config)
    assert kind in CLASSIFIERS and kind is not None
    return kind.head.removesuffix(".")


def _must_have(key: str, names: list[str], what: str, known: list[str]) -> None:
    missing = [name for name in names if name not in known]
    if missing or not names:
        raise ConfigurationError(
            f"peft.{key}: the model has no {what} {missing[0] if missing else ''!r}: it has {', '.join(known)}."
        )


def describe_adapter(model: PreTrainedModel, run: ClassifierRun) -> AdapterDescription:
    """What the adapter of a run will belong to.

    Args:
        model: the classifier that is adapted, before anything of it is trained.
        run: the run, which names its checkpoint.
    """
    source, revision = run.model_arguments.checkpoint or "", run.model_arguments.checkpoint_revision
    return AdapterDescription(source, revision, _body_fingerprint(model), [])


def _body_fingerprint(model: Any) -> str | None:
    """[`~dna_hf.training.adapter.fingerprint`] of a classifier without its head, which is another one in each run."""
    return fingerprint(model.base_model)


def merged(model: Any) -> PreTrainedModel:
    """The whole model that an adapter makes of its base; the adapted model stays as it is."""
    return copy.deepcopy(model).merge_and_unload()


def load_adapted_classifier(
    folder: str | Path, base: str | None = None, *, dtype: torch.dtype | None = None
) -> tuple[PreTrainedModel, Any]:
    """The model that an adapter makes of its base, and its processor.

    Args:
        folder: folder of the adapter.
        base: folder or name on the Hub of the base; by default where it was when the adapter was trained.
        dtype: dtype of the weights; by default the one in which the base is stored.

    Raises:
        ConfigurationError: if the base is missing, is another one, or the adapter is damaged.
    """
    from peft import PeftModel

    description, config = read_description(folder), load_config(folder, None, ConfigurationError)
    kind = kind_of_config(config)
    assert kind is not None

    def load(source: str, revision: str | None) -> PreTrainedModel:
        return load_whole(
            kind.auto_model,
            source,
            revision=revision,
            config=config,
            dtype=dtype or "auto",
            new=(kind.head, *kind.pretraining),
            error_class=ConfigurationError,
        )

    model = load_its_base(folder, description, base, load, _body_fingerprint)
    with told_as(ConfigurationError, f"adapter {str(folder)!r} is damaged"):
        stored = _shapes(Path(folder, LORA_WEIGHTS_FILE))
        adapted = PeftModel.from_pretrained(model, str(folder))
    _must_fit(folder, stored, adapted)
    processor = load_processor(folder, kind, None, ConfigurationError)
    return adapted.merge_and_unload().eval(), processor  # type: ignore[operator]


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _must_fit(folder: str | Path, stored: dict[str, tuple[int, ...]], adapted: Any) -> None:
    """See that PEFT has put every tensor of an adapter into the model, and had one for every place."""
    from peft import get_peft_model_state_dict

    wanted = {name: tuple(tensor.shape) for name, tensor in get_peft_model_state_dict(adapted).items()}
    differing = sorted(name for name in stored.keys() | wanted.keys() if stored.get(name) != wanted.get(name))
    if differing:
        raise ConfigurationError(
            f"adapter {str(folder)!r} does not fit its base: {len(differing)} tensors differ, first {differing[0]!r}."
        )
