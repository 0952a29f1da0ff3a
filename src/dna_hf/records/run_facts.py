"""What is said of a model before it is put to work."""

from typing import Any

from transformers import PreTrainedModel


def model_facts(model: PreTrainedModel) -> list[tuple[str, str]]:
    """Name and value of what a model is and where it runs, as text for a table.

    Args:
        model: any model, on its device.
    """
    config: Any = model.config
    variant = getattr(config, "attention_variant", None)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    parameters = model.num_parameters()
    return [
        ("model", f"{config.model_type}, {variant} attention" if variant else config.model_type),
        ("parameters", f"{parameters:,}" + (f", {trained:,} of them trained" if 0 < trained < parameters else "")),
        ("device", str(model.device)),
        ("precision", str(model.dtype).removeprefix("torch.")),
    ]
