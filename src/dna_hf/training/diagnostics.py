"""What a run says about itself: the scales of the negative branch, and why it stopped making sense."""

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ..models.attention_variants import DenoisingAttention
from .errors import NonFiniteError


def negative_scale_statistics(model: PreTrainedModel) -> dict[str, float]:
    """Alpha of every layer and head, and its mean, standard deviation (unbiased), minimum and maximum.

    Where parameters are sharded (FSDP), every process must call it.

    Returns:
        `negative_scale/layer_{l}/head_{h}` and `negative_scale/{mean,std,min,max}`; empty for a variant without alpha.
    """
    scales = [
        _whole(module.branch_scale()).float().cpu()
        for module in model.modules()
        if isinstance(module, DenoisingAttention)
    ]
    if not scales:
        return {}
    statistics = {
        f"negative_scale/layer_{layer}/head_{head}": value
        for layer, values in enumerate(scales)
        for head, value in enumerate(values.tolist())
    }
    alpha = torch.cat(scales)
    return statistics | {
        "negative_scale/mean": alpha.mean().item(),
        "negative_scale/std": alpha.std().item() if len(alpha) > 1 else 0.0,
        "negative_scale/min": alpha.min().item(),
        "negative_scale/max": alpha.max().item(),
    }


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check_finite_loss(loss: torch.Tensor, model: torch.nn.Module, step: int, rows: list[int] | None) -> None:
    """Stop at once where a loss is not finite.

    Args:
        loss: loss of one batch, after its backward pass.
        model: model whose parameters and gradients are looked through.
        step: number of the optimizer step that the batch belongs to.
        rows: numbers of the rows of the training split in the batch.

    Raises:
        NonFiniteError: naming the step, the loss, the rows, and the first parameter or gradient that is not finite.
    """
    if torch.isfinite(loss).all():
        return
    where = f" on rows {', '.join(map(str, rows))} of the training split" if rows else ""
    raise NonFiniteError(f"the loss of step {step} is {loss.item()}{where}; {_first_bad(model)}.")


def _first_bad(model: torch.nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"parameter {name!r} is not finite"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"all parameters are finite, the gradient of {name!r} is not"
    return "all parameters and gradients are finite"
