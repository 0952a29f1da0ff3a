"""See that a run asks for a model of the structure of the checkpoint that it starts from."""

from typing import Any

from transformers import PreTrainedConfig

from ..models.configuration_dna import pair
from .errors import ConfigurationError


# fields of a configuration that no checkpoint can be loaded with other values of
STRUCTURE = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("num_channels", "qkv_bias", "attention_variant"),
)


def check_structure(source: str, own: PreTrainedConfig, fields: dict[str, Any]) -> None:
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


def check_patches(source: str, own: PreTrainedConfig, config: PreTrainedConfig) -> None:
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
