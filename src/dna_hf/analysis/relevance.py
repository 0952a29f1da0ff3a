"""Gradient-weighted relevance: which patches a decision rests on, through which branch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..models.attention_variants import VariantAttention
from .errors import AnalysisError
from .layout import ProbeLayout, TokenLayout, watch_layout
from .maps import HeatMap, chosen_places, heat_values
from .observer import AttentionCall, AttentionPlace, watch_attention
from .subspaces import require_finite


BRANCHES = ("positive", "negative")


@dataclass
class Step:
    """The maps of one attention module in one call of the vision model, which `earlier` visuals came before."""

    place: AttentionPlace
    variant: str
    layout: TokenLayout
    earlier: int
    maps: list[torch.Tensor]


def attention_relevance(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    target: int | Sequence[int] | None = None,
    position: int = -1,
) -> list[HeatMap]:
    """How much each patch speaks for a class, or for the next token, by the branch it is seen through.

    Of every map A the gradient of the logit is taken, and of their product what is positive, averaged over the heads:

        R_l = mean_heads(max(dy/dA_l * A_l, 0))
        row <- row + row R_l  from the last layer to the first, beginning with the tokens that the classifier reads

    Source: Chefer, Gur & Wolf, Generic Attention-model Explainability, arXiv:2103.15679, equations 5 and 6, whose
    product of matrices is formed here row by row. The gradients are those of the maps themselves, alpha or lambda and
    the values of their branch included. Choices made here: a branch is followed through its own maps alone, `combined`
    through both. The probes of a video language model have no residual connection: for them the `R` of all layers
    and probes are added up.

    Args:
        model: a classifier of images or videos, or a video language model, on any attention implementation.
        inputs: arguments of `model.forward`.
        target: class or token whose logit is explained, one for all samples or one each; by default the highest.
        position: place of the token whose successor is explained, in a language model.

    Returns:
        One heat map per visual: `positive`, `negative`, `difference` and `combined`, in units of the logit.

    Raises:
        AnalysisError: for a model without logits, a target that does not exist, or maps or gradients that are not
            finite.
    """
    steps, gradients = _steps_and_gradients(model, inputs, target, position)
    weighted = [_weighted(step, own) for step, own in zip(steps, gradients, strict=True)]
    heats: list[HeatMap] = []
    for earlier in dict.fromkeys(step.earlier for step in steps):
        of_call = [(step, parts) for step, parts in zip(steps, weighted, strict=True) if step.earlier == earlier]
        heats += _heats(model, of_call)
    return heats


def _steps_and_gradients(
    model: PreTrainedModel, inputs: Mapping[str, Any], target: int | Sequence[int] | None, position: int
) -> tuple[list[Step], list[list[torch.Tensor]]]:
    """Every attention module as the model called it, and the gradients of the explained logit by each of its maps."""
    places = chosen_places(model)
    steps: list[Step] = []
    with watch_layout(model) as seen, eager_attention_in(places), torch.enable_grad():

        def retain(call: AttentionCall) -> None:
            maps = [weights for weights in call.output[1:] if weights is not None]
            for weights in maps:
                require_finite(weights, f"a map of the {call.place}")
            steps.append(Step(call.place, call.variant, seen.layout, seen.earlier, maps))

        outputs = watch_attention(model, _with_gradients(inputs), places, retain)
        score = _score(outputs, target, position)
        maps = [weights for step in steps for weights in step.maps]
        gradients = iter(torch.autograd.grad(score, maps, materialize_grads=True))
    return steps, [[next(gradients) for _ in step.maps] for step in steps]


@contextmanager
def eager_attention_in(places: Mapping[VariantAttention, AttentionPlace]) -> Iterator[None]:
    """While this lasts, the modules form their maps, within the graph of the model; the others run as they do.

    Raises:
        AnalysisError: when a module is called with a mask that eager attention does not understand.
    """

    def ask_for_maps(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        assert isinstance(module, VariantAttention)
        AttentionCall(module, places[module], args, kwargs).check_repeatable()
        return args, kwargs | {"implementation": "eager"}

    with ExitStack() as hooks:
        for module in places:
            hooks.enter_context(module.register_forward_pre_hook(ask_for_maps, with_kwargs=True))
        yield


def _with_gradients(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs, with gradients asked of pixels, so that the maps of a model with frozen weights have some."""
    if not isinstance(inputs, Mapping):
        return inputs  # refused where the model is called
    return {
        name: value.detach().clone().requires_grad_()
        if name.startswith("pixel_values") and isinstance(value, torch.Tensor)
        else value
        for name, value in inputs.items()
    }


def _score(outputs: Any, target: int | Sequence[int] | None, position: int) -> torch.Tensor:
    """The sum of the explained logits of all samples."""
    logits = getattr(outputs, "logits", None)
    if logits is None:
        raise AnalysisError("relevance needs logits: give a classifier, or a video language model.")
    if logits.dim() == 3:
        if not -logits.shape[1] <= position < logits.shape[1]:
            raise AnalysisError(f"position {position} does not exist: there are {logits.shape[1]} tokens.")
        logits = logits[:, position]
    if target is None:
        chosen = logits.argmax(dim=1)
    else:
        chosen = torch.as_tensor(target, device=logits.device).expand(len(logits))
        if not ((chosen >= 0) & (chosen < logits.shape[1])).all():
            raise AnalysisError(f"target {target} does not exist: the model has {logits.shape[1]} classes or tokens.")
    return logits.gather(1, chosen[:, None]).sum()


def _weighted(step: Step, gradients: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """What is positive of gradients times maps, (sequences, queries, keys): the mean over heads, for each branch."""
    products = []
    for weights, gradient in zip(step.maps, gradients, strict=True):
        require_finite(gradient, f"the gradient of a map of the {step.place}")
        product = (gradient * weights.detach()).clamp(min=0)
        products.append(product.to(torch.promote_types(product.dtype, torch.float32)))
    if step.variant == "cog":
        # the parts of a signed map
        products = [products[0] * (step.maps[0] > 0), products[0] * (step.maps[0] < 0)]
    parts = {name: product.mean(dim=1).detach() for name, product in zip(BRANCHES, products, strict=False)}
    return parts | {"combined": sum(parts.values(), start=torch.zeros_like(parts["positive"]))}


def _heats(model: PreTrainedModel, steps: list[tuple[Step, dict[str, torch.Tensor]]]) -> list[HeatMap]:
    """One heat map per visual of one call of the vision model."""
    last = steps[-1][0]
    names = dict.fromkeys(name for _, own in steps for name in own)
    # a cog model leaves some layers to softmax attention
    variant = next((step.variant for step, _ in steps if step.variant != "softmax"), "softmax")
    follow = _over_probes if isinstance(last.layout, ProbeLayout) else _to_the_classifier
    found = {name: follow(model, [(step, own[name]) for step, own in steps if name in own]) for name in names}
    heats = []
    for visual, grid in enumerate(last.layout.grids):
        own = {name: rows[visual].cpu() for name, rows in found.items()}
        values = heat_values(own["positive"], own.get("negative")) | {"combined": own["combined"]}
        # no patch has relevance where the classifier does not change its mind
        uniform = float(own["combined"].mean()) or 1.0
        heats.append(HeatMap(last.earlier + visual, grid, variant, values, uniform))
    return heats


def _over_probes(model: PreTrainedModel, steps: list[tuple[Step, torch.Tensor]]) -> list[torch.Tensor]:
    """The weights of all layers and probes, by patch, added up for each visual."""
    layers = [step.layout.place(weights.unsqueeze(1), step.place.axis) for step, weights in steps]
    return [sum(placed.patches.sum(dim=(0, 1)) for placed in visual) for visual in zip(*layers, strict=True)]  # type: ignore[misc]


def _to_the_classifier(model: PreTrainedModel, steps: list[tuple[Step, torch.Tensor]]) -> list[torch.Tensor]:
    """Follow the tokens that the classifier reads through the layers, from the last."""
    layout = steps[-1][0].layout
    start = _read_tokens(model, layout).to(steps[-1][1])
    row = start
    for step, weights in reversed(steps):
        row = row + layout.push(row, weights, step.place.axis, shared=False)
    return layout.heat(row - start)


def _read_tokens(model: PreTrainedModel, layout: TokenLayout) -> torch.Tensor:
    """A row that is 1 on the tokens that the classifier reads; of patches whose mean it reads, 1 over their number."""
    pooling = getattr(model.config, "classifier_pooling", "cls")
    row = layout.start([0, 1] if pooling == "cls_dist" else [0], shared=False)
    if pooling == "cls_mean":
        grid = layout.grids[0]
        row[:, grid.prefix :] = 1 / grid.patches
    return row
