"""Which parameters decay, and which learn more slowly."""

import re

import torch
from transformers import PreTrainedModel


# parameters of two or more dimensions that are no weights of a projection
TOKENS = (
    *("cls_token", "distillation_token", "mask_token", "visual_probes"),
    *("position_embeddings", "time_embeddings"),
)


def decay_parameter_names(model: torch.nn.Module, decay_all: bool = False) -> list[str]:
    """Names of the parameters that weight decay applies to.

    Args:
        model: any model of this package.
        decay_all: whether all decay, as in the paper's recipe; otherwise the usual ones: not biases, norms and other
            vectors (the scale of the negative branch among them), nor tokens and tables of positions and times.
    """
    return [
        name
        for name, parameter in model.named_parameters()
        if decay_all or (parameter.dim() > 1 and name.rpartition(".")[2] not in TOKENS)
    ]


def layer_number(name: str, num_layers: int) -> int:
    """0 for the embeddings, i + 1 for layer i, `num_layers` + 1 for what follows: the last norm and the head."""
    match = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    if match:
        return int(match[1]) + 1
    return 0 if re.search(r"(?:^|\.)embeddings\.", name) else num_layers + 1


def apply_layer_decay(optimizer: torch.optim.Optimizer, model: PreTrainedModel, layer_decay: float) -> None:
    """Split the groups of an optimizer so that layer i learns with `layer_decay ** (L + 1 - i)` of the learning rate.

    The factor goes into the group's own learning rate, which every schedule of transformers multiplies.

    Args:
        optimizer: optimizer that was not stepped yet.
        model: model whose parameters the optimizer has.
        layer_decay: factor on the learning rate from each layer to the one below it, in (0, 1].
    """
    top = model.config.num_hidden_layers + 1
    numbers = {parameter: layer_number(name, top - 1) for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        for number in sorted({numbers[parameter] for parameter in group["params"]}):
            parameters = [parameter for parameter in group["params"] if numbers[parameter] == number]
            groups.append({**group, "params": parameters, "lr": group["lr"] * layer_decay ** (top - number)})
    optimizer.param_groups[:] = groups
