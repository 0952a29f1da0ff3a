"""The attention variants against the float64 reference, and the properties that follow from their definitions."""

import math
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch

from dna_hf.models.attention_variants import (
    ATTENTION_VARIANTS,
    build_attention,
)
from dna_hf.models.configuration_dna_vit import DnAViTConfig
from reference import reference_attention


VARIANTS = tuple(ATTENTION_VARIANTS)
HEADS = 3
BATCH = 2
LAYER = 1  # differential attention depends on the index of its layer

# Relative root mean square errors. float32 has a unit roundoff of 6e-8 and about ten roundings lie in a row between
# input and output, some of them in sums over hundreds of terms. bfloat16 has one of 4e-3, an error of 1.7e-3 RMS per
# rounding: projections, scores, weights, products with the values and the output projection add up to about three
# times that in the output. The gradients of queries and keys pass through differences of similar numbers.
TOLERANCES = {
    torch.float32: {"output": 2e-6, "gradient": 2e-6},
    torch.bfloat16: {"output": 1e-2, "gradient": 1e-2},
    torch.float16: {"output": 2e-3, "gradient": 2e-3},
}


def make_attention(variant, head_dim=16, heads=HEADS, layer_idx=LAYER, **overrides):
    """A layer in evaluation mode."""
    config = DnAViTConfig(
        hidden_size=heads * head_dim,
        num_attention_heads=heads,
        num_hidden_layers=4,
        attention_variant=variant,
        cog_softmax_layers=[],
        **overrides,
    )
    return build_attention(config, layer_idx).eval()


def draw(generator, *shape, std=1.0, mean=0.0):
    """Normal numbers that bfloat16 represents, in float64: every dtype then computes from the same numbers."""
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * std + mean).bfloat16().double()


def draw_parameters(module, generator):
    """Values for all parameters of a layer under which scores, values and outputs are all of the order of 1."""
    values = {}
    for name, parameter in module.named_parameters():
        if parameter.dim() == 2:
            values[name] = draw(generator, *parameter.shape, std=parameter.shape[1] ** -0.5)
        elif name == "head_norm.weight":
            values[name] = draw(generator, *parameter.shape, std=0.2, mean=1.0)
        elif name.startswith("lambda"):
            # as initialised: a lambda near 1 would subtract nearly equal numbers, which the norm then scales up
            values[name] = draw(generator, *parameter.shape, std=0.1)
        else:
            values[name] = draw(generator, *parameter.shape, std=0.3)
    return values


def keep_scores_from_zero(parameters, head_dim, generator, *states):
    """Give every score of cog attention a distance from 0, where the sign makes its output jump.

    One channel of the tokens is +1 or -1 and reaches queries and keys strongly enough to decide the sign.
    """
    strength = math.sqrt(3 / math.sqrt(head_dim))
    for name in ("q_proj", "k_proj"):
        parameters[f"{name}.weight"].mul_(0.3)
        parameters[f"{name}.weight"][:, 0] = torch.tensor(strength).bfloat16().double()
        parameters[f"{name}.bias"].mul_(0.25)
    for tokens in states:
        tokens[..., 0] = 1 - 2.0 * torch.randint(2, tokens.shape[:-1], generator=generator)


def draw_masks(generator, queries, keys):
    """Masks by name, each as (allowed, bias) or `None`; every query may attend to something, but for `empty_row`."""

    def allow(*shape):
        allowed = torch.rand(shape, generator=generator) > 0.3
        allowed[..., keys // 2] = True
        return allowed

    empty_row = allow(BATCH, 1, queries, keys)
    empty_row[0, :, queries // 2] = False
    return {
        "none": None,
        "boolean": (allow(BATCH, 1, 1, keys), None),
        "additive": (allow(BATCH, HEADS, queries, keys), draw(generator, BATCH, HEADS, queries, keys)),
        "empty_row": (empty_row, None),
    }


def as_tensor(mask, dtype):
    """The mask as the modules take it."""
    if mask is None:
        return None
    allowed, bias = mask
    return allowed if bias is None else bias.to(dtype).masked_fill(~allowed, torch.finfo(dtype).min)


@lru_cache(maxsize=4)
def reference_case(variant, tokens, head_dim, cross):
    """Inputs, parameters and masks of one setting with reference outputs, maps and gradients for each mask."""
    generator = torch.Generator().manual_seed(1000 * tokens + head_dim + cross)
    parameters = draw_parameters(make_attention(variant, head_dim), generator)
    inputs = {"targets": draw(generator, BATCH, tokens, HEADS * head_dim)}
    if cross:
        inputs["sources"] = draw(generator, BATCH, tokens // 2 + 3, HEADS * head_dim)
    if variant == "cog":
        keep_scores_from_zero(parameters, head_dim, generator, *inputs.values())
    cotangent = draw(generator, BATCH, tokens, HEADS * head_dim)
    masks = draw_masks(generator, tokens, tokens // 2 + 3 if cross else tokens)

    results = {}
    for name, mask in masks.items():
        leaves = {key: value.clone().requires_grad_() for key, value in (parameters | inputs).items()}
        targets = leaves["targets"]
        output, first, second = reference_attention(
            variant, leaves, targets, leaves.get("sources", targets), HEADS, *(mask or ()), layer_idx=LAYER
        )
        output.backward(cotangent)
        gradients = {key: leaf.grad for key, leaf in leaves.items()}
        results[name] = SimpleNamespace(output=output.detach(), maps=(first, second), gradients=gradients)
    return SimpleNamespace(parameters=parameters, inputs=inputs, cotangent=cotangent, masks=masks, results=results)


def rms(tensor):
    return tensor.double().pow(2).mean().sqrt().item()


def relative_error(actual, expected, scale=0.0):
    error = rms(actual.double().cpu() - expected)
    # a comparison with NaN is false: turn it into an error that exceeds every tolerance
    return error / max(rms(expected), scale, 1e-30) if math.isfinite(error) else math.inf


def gradient_errors(gradients, expected):
    """Relative error of every gradient.

    Where the terms of a gradient cancel, wholly as in that of the key bias (it shifts all scores of a query alike) or
    by chance, its own size says nothing about the rounding errors of the terms. The error is then measured against a
    tenth of the largest gradient of its kind.
    """
    inputs = {name for name in expected if name in ("targets", "sources")}
    errors = {}
    for kind in (inputs, expected.keys() - inputs):
        scale = 0.1 * max(rms(expected[name]) for name in kind)
        errors |= {name: relative_error(gradients[name], expected[name], scale) for name in sorted(kind)}
    return errors


def errors_of(case, mask_name, variant, head_dim, dtype, backend, device="cpu"):
    """Run a layer forward and backward; relative errors by name, and whether rows without keys are exact."""
    module = make_attention(variant, head_dim).to(device, dtype)
    module.load_state_dict({name: value.to(device, dtype) for name, value in case.parameters.items()})
    leaves = {name: value.to(device, dtype).requires_grad_() for name, value in case.inputs.items()}
    mask = as_tensor(case.masks[mask_name], dtype)
    expected = case.results[mask_name]
    output, *maps = module(
        leaves["targets"],
        mask if mask is None else mask.to(device),
        key_value_states=leaves.get("sources"),
        implementation=backend,
    )
    output.backward(case.cotangent.to(device, dtype))
    gradients = {name: leaf.grad for name, leaf in leaves.items()}
    gradients |= {name: parameter.grad for name, parameter in module.named_parameters()}

    errors = {"output": relative_error(output.detach(), expected.output)}
    if backend == "eager":
        for name, actual, reference in zip(("first map", "second map"), maps, expected.maps, strict=True):
            assert (actual is None) == (reference is None)
            if reference is not None:
                errors[name] = relative_error(actual.detach(), reference.detach())
    else:
        assert maps == [None, None]
    errors |= {f"gradient of {key}": e for key, e in gradient_errors(gradients, expected.gradients).items()}
    if mask_name == "empty_row":
        row = output[0, output.shape[1] // 2]
        errors["output of the empty row"] = 0.0 if torch.equal(row, module.o_proj.bias) else math.inf
    return errors


def too_large(errors, dtype, *where):
    """The errors above the tolerance, in words."""
    tolerances = TOLERANCES[dtype]
    return [
        f"{', '.join(map(str, where))}: {name} is off by {error:.2g}"
        for name, error in errors.items()
        if not error <= tolerances["gradient" if name.startswith("gradient") else "output"]
    ]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("tokens", [1, 2, 7, 63, 64, 65, 197])
@pytest.mark.parametrize("head_dim", [16, 64, 80])
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_maps_and_gradients_equal_the_reference(variant, head_dim, tokens, backend):
    failures = []
    for cross in (False, True):
        case = reference_case(variant, tokens, head_dim, cross)
        for mask_name in case.masks:
            for dtype in (torch.float32, torch.bfloat16):
                errors = errors_of(case, mask_name, variant, head_dim, dtype, backend)
                failures += too_large(errors, dtype, dtype, mask_name, "cross" if cross else "self")
    assert not failures, "\n".join(failures)
