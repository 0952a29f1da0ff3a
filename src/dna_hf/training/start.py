"""The model of a classifier that starts from a checkpoint: what it keeps, what is resampled and what is new."""

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..errors import told_as
from ..kinds import check_images, kind_of
from ..models.configuration_dna import pair
from ..pretrained import Shapes, fitting_config, load_config, load_whole, tensor_shapes
from ..sizes import SIZE_FIELDS, resize_model
from .config_file import ClassifierRun
from .errors import ConfigurationError
from .tasks import AnyProcessor, task_of


# fields of a configuration that no checkpoint can be loaded with other values of
STRUCTURE = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("num_channels", "qkv_bias", "attention_variant"),
)
logger = logging.get_logger(__name__)


def start_from(source: str, run: ClassifierRun, fields: dict[str, Any]) -> tuple[PreTrainedModel, AnyProcessor]:
    """The model of a checkpoint with a head for other classes, and its processor; all else is the checkpoint's own.

    Args:
        source: the checkpoint: folder, or name on the Hub.
        run: the run that starts from it.
        fields: fields of the configuration that were given, and those that the data gives.

    Raises:
        ConfigurationError: if the checkpoint is missing, of another kind, not whole, or does not fit the fields.
    """
    revision, kind, task = run.model_arguments.checkpoint_revision, run.kind, task_of(run)
    found = kind_of(source, revision, error_class=ConfigurationError)
    if found is not kind:
        raise ConfigurationError(
            f"checkpoint {source!r} holds {found.with_article}, but model_type is {kind.model_type!r}: set "
            f"{found.model_type!r}, or choose another checkpoint."
        )
    # before memory is taken
    own = fitting_config(kind.auto_model, source, revision, ConfigurationError)
    _check_structure(source, own, fields)
    config = load_config(source, revision, ConfigurationError, **fields)
    _check_patches(source, own, config)
    with told_as(ConfigurationError, f"checkpoint {source!r} cannot become what is asked for"):
        config.validate()
    own_sizes = {name: getattr(own, name) for name in SIZE_FIELDS if hasattr(own, name)}
    # in float32: half precision is a matter of the training arguments (bf16, fp16), not of the stored weights
    model = load_whole(
        kind.auto_model,
        source,
        revision=revision,
        config=load_config(source, revision, ConfigurationError, **fields | own_sizes),
        dtype=torch.float32,
        new=(kind.head, *kind.pretraining),
        error_class=ConfigurationError,
    )
    resampled = resize_model(model, config.image_size, getattr(config, "num_frames", None))
    if run.training.process_index == 0:
        _say_changes(source, model, kind.head, tensor_shapes(source, revision, ConfigurationError), resampled)
    processor = task.load_processor(run, config, source, revision)
    check_images(processor, config, source, ConfigurationError)
    return model, processor


def _check_structure(source: str, own: PreTrainedConfig, fields: dict[str, Any]) -> None:
    """See that a run keeps the sizes and the attention of its checkpoint.

    Args:
        source: the checkpoint, for the message.
        own: its configuration.
        fields: fields of section `model` that were given.

    Raises:
        ConfigurationError: naming the first field that differs, and what to give in its place.
    """
    have = {name: getattr(own, name) for name in STRUCTURE if hasattr(own, name) and name in fields}
    different = [name for name, value in have.items() if fields[name] != value]
    if different:
        first = different[0]
        words = " ".join(f"--{name} {str(have[name]).lower()}" for name in different)
        raise ConfigurationError(
            f"model.{first} is {fields[first]!r}, but checkpoint {source!r} has {have[first]!r}: leave out what "
            f"differs, or give {words}."
        )


def _check_patches(source: str, own: PreTrainedConfig, config: PreTrainedConfig) -> None:
    """See that a run keeps the patches of its checkpoint.

    Args:
        source: the checkpoint, for the message.
        own: its configuration.
        config: the configuration that was asked for.

    Raises:
        ConfigurationError: naming both sizes of patches.
    """
    have, asked = (pair(each.patch_size, "patch_size") for each in (own, config))
    if have != asked:
        raise ConfigurationError(
            f"checkpoint {source!r} has patches of {have[0]}x{have[1]} pixels, but patch_size is {config.patch_size}: "
            "leave it out; for another number of patches give image_size."
        )


def _say_changes(source: str, model: PreTrainedModel, head: str, stored: Shapes, resampled: dict[str, str]) -> None:
    """Say which tensors of a model are not those of its checkpoint."""
    tensors = model.state_dict().items()
    new = [name for name, tensor in tensors if name.startswith(head) and stored.get(name) != tuple(tensor.shape)]
    said = [f"{name} is resampled ({how})" for name, how in resampled.items()]
    said += [f"{', '.join(new)} {'is' if len(new) == 1 else 'are'} new"] if new else []
    if said:
        logger.warning(f"from {source!r}: {'; '.join(said)}; all other tensors are its own.")
