"""The attention variants against the float64 reference, and the properties that follow from their definitions."""

import math
from functools import lru_cache
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask
from transformers.utils import is_flash_attn_2_available

from dna_hf.models.attention_variants import (
    ATTENTION_VARIANTS,
    TWO_MAP_VARIANTS,
    backend_mask,
    build_attention,
    masked_softmax,
)
from dna_hf.models.configuration_dna_vit import DnAViTConfig
from tests.reference import reference_attention


VARIANTS = tuple(ATTENTION_VARIANTS)
HEADS = 3
BATCH = 2
LAYER = 1  # differential attention depends on the index of its layer

# Relative root mean square errors. float32 has a unit roundoff of 6e-8, and about ten roundings lie in a row between
# input and output, some of them in sums over hundreds of terms. One rounding to bfloat16 is an error of 1.7e-3 RMS:
# projections, scores, weights, products with the values and the output projection add up to two to five times that.
OUTPUT_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}
# A backward pass has twice as many roundings. That of differential attention goes through a norm, which divides a
# difference of two similar outputs, and their errors, by its size.
GRADIENT_TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.2e-2, torch.float16: 2.5e-3}
DIFFERENTIAL_SLACK = 2
# Where the terms of a gradient cancel, its own size says nothing about the errors of the terms: wholly, as in that of
# the key bias, which shifts all scores of a query alike, or by chance. Its error is then measured against this share
# of the largest gradient of the same kind.
CANCELLATION = {torch.float32: 0.3, torch.bfloat16: 1.0, torch.float16: 1.0}


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


def gradient_errors(gradients, expected, dtype):
    """Relative error of every gradient; inputs, parameters summed over tokens, and those also over channels apart."""
    inputs = {name for name in expected if name in ("targets", "sources")}
    scalars = {name for name in expected if name == "negative_scale" or name.startswith("lambda")}
    others = expected.keys() - inputs - scalars
    width = expected["targets"].shape[-1]
    scales = dict.fromkeys(inputs, max(rms(expected[name]) for name in inputs))
    scales |= dict.fromkeys(others, max(rms(expected[name]) for name in others))
    scales |= dict.fromkeys(scalars, max(rms(expected[name]) for name in others) * math.sqrt(width))
    return {
        name: relative_error(gradients[name], expected[name], CANCELLATION[dtype] * scales[name]) for name in scales
    }


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
    for name, error in gradient_errors(gradients, expected.gradients, dtype).items():
        errors[f"gradient of {name}"] = error
    if mask_name == "empty_row":
        row = output[0, output.shape[1] // 2]
        errors["output of the empty row"] = 0.0 if torch.equal(row, module.o_proj.bias) else math.inf
    return errors


def too_large(errors, variant, dtype, *where):
    """The errors above the tolerance, in words."""
    slack = DIFFERENTIAL_SLACK if variant == "differential" and dtype != torch.float32 else 1
    failures = []
    for name, error in errors.items():
        tolerance = slack * GRADIENT_TOLERANCE[dtype] if name.startswith("gradient") else OUTPUT_TOLERANCE[dtype]
        if not error <= tolerance:
            failures.append(f"{variant}, {dtype}, {', '.join(map(str, where))}: {name} is off by {error:.2g}")
    return failures


def once(*sizes):
    """Sizes whose sums do not depend on the version of transformers."""
    return [pytest.param(size, marks=pytest.mark.once) for size in sizes]


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("tokens", [*once(1, 2), 7, *once(63), 64, *once(65, 197)])
@pytest.mark.parametrize("head_dim", [16, *once(64, 80)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_maps_and_gradients_equal_the_reference(variant, head_dim, tokens, backend):
    failures = []
    for cross in (False, True):
        case = reference_case(variant, tokens, head_dim, cross)
        for mask_name in case.masks:
            for dtype in (torch.float32, torch.bfloat16):
                errors = errors_of(case, mask_name, variant, head_dim, dtype, backend)
                failures += too_large(errors, variant, dtype, mask_name, "cross" if cross else "self")
    assert not failures, "\n".join(failures)


# Flex attention compiles a kernel for every shape, five to ten seconds each, and on CPU it has no backward pass and no
# additive masks: one setting per variant, odd and even numbers of tokens, narrow and wide heads, one in bfloat16.
@pytest.mark.parametrize(
    ("variant", "tokens", "head_dim", "dtype"),
    [
        ("dna", 65, 64, torch.float32),
        pytest.param("dna_shared_value", 65, 64, torch.float32, marks=pytest.mark.once),
        pytest.param("softmax", 7, 16, torch.bfloat16, marks=pytest.mark.once),
        pytest.param("differential", 64, 80, torch.float32, marks=pytest.mark.once),
        ("cog", 65, 16, torch.float32),
    ],
    ids=str,
)
def test_flex_attention_equals_the_reference(variant, tokens, head_dim, dtype):
    case = reference_case(variant, tokens, head_dim, False)
    module = make_attention(variant, head_dim).to(dtype)
    module.load_state_dict({name: value.to(dtype) for name, value in case.parameters.items()})
    for name in ("none", "boolean", "empty_row") if variant != "cog" else ("none",):
        mask = as_tensor(case.masks[name], dtype)
        output, *maps = run(module, case.inputs["targets"].to(dtype), mask, implementation="flex_attention")
        assert maps == [None, None]
        assert relative_error(output, case.results[name].output) <= OUTPUT_TOLERANCE[dtype]
    if variant != "cog":
        assert torch.equal(output[0, tokens // 2], module.o_proj.bias)


@pytest.mark.gpu
@pytest.mark.parametrize("cross", [False, True], ids=["self", "cross"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("tokens", [7, 64, 197])
@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_gpu_equal_the_reference(gpu_device, variant, tokens, backend, dtype, cross):
    case, failures = reference_case(variant, tokens, 64, cross), []
    for mask_name in case.masks:
        errors = errors_of(case, mask_name, variant, 64, dtype, backend, gpu_device)
        failures += too_large(errors, variant, dtype, mask_name)
    assert not failures, "\n".join(failures)


HALF = (torch.bfloat16, torch.float16)
MASKS = ("none", "boolean", "additive", "empty_row")
# kernels that sdpa chooses from, with the dtypes and masks that each takes
KERNELS = [
    *product(["FLASH_ATTENTION"], HALF, ["none"]),
    *product(["EFFICIENT_ATTENTION"], (torch.float32, *HALF), MASKS),
    *product(["CUDNN_ATTENTION"], HALF, MASKS),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("kernel", "dtype", "mask_name"), KERNELS, ids=str)
@pytest.mark.parametrize("tokens", [7, 64, 197])
def test_kernels_of_sdpa_equal_the_reference(gpu_device, tokens, kernel, dtype, mask_name):
    if gpu_device == "cpu" and kernel != "FLASH_ATTENTION":
        pytest.skip("this kernel is one of CUDA")
    case = reference_case("dna", tokens, 64, False)
    with sdpa_kernel(getattr(SDPBackend, kernel)):
        try:
            errors = errors_of(case, mask_name, "dna", 64, dtype, "sdpa", gpu_device)
        except RuntimeError as error:
            # which sizes and masks cuDNN takes depends on its version
            if kernel == "CUDNN_ATTENTION" and "No available kernel" in str(error):
                pytest.skip("cuDNN takes no such call")
            raise
    failures = too_large(errors, "dna", dtype, kernel, tokens, mask_name)
    assert not failures, "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", ["dna", "dna_shared_value", "softmax"])
def test_flash_attention_2_equals_the_reference(gpu_device, variant, dtype):
    if not is_flash_attn_2_available():
        pytest.skip("flash_attn is not installed, or there is no GPU for it")
    failures = []
    for tokens in (7, 64, 197):
        errors = errors_of(
            reference_case(variant, tokens, 64, False), "none", variant, 64, dtype, "flash_attention_2", gpu_device
        )
        failures += too_large(errors, variant, dtype, tokens)
    assert not failures, "\n".join(failures)


@pytest.fixture
def fresh_compiler():
    """Beyond a number of shapes that were compiled, a kernel would silently not be used."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        yield


# The kernels of a shape take many seconds to compile: few settings. In float32 they multiply in lower precision.
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("tokens", "dtype", "cross"),
    [(197, torch.bfloat16, False), (197, torch.float16, True), (64, torch.bfloat16, True), (7, torch.float16, False)],
    ids=str,
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_flex_attention_on_a_gpu_equals_the_reference(gpu_device, fresh_compiler, variant, tokens, dtype, cross):
    if gpu_device == "cpu":
        pytest.skip("flex attention has no backward pass on CPU")
    case, failures = reference_case(variant, tokens, 64, cross), []
    # cog attention reads no block masks
    for mask_name in ("none", "boolean", "empty_row") if variant != "cog" else ("none",):
        errors = errors_of(case, mask_name, variant, 64, dtype, "flex_attention", gpu_device)
        failures += too_large(errors, variant, dtype, mask_name)
    assert not failures, "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.parametrize("mask_name", ["none", "boolean"])
def test_flex_attention_on_a_gpu_takes_one_size_after_another(gpu_device, fresh_compiler, mask_name):
    if gpu_device == "cpu":
        pytest.skip("flex attention has no backward pass on CPU")
    failures = []
    # the kernel of the first size is compiled for that size, the next one for any
    for tokens in (64, 197, 7):
        case = reference_case("dna", tokens, 64, False)
        errors = errors_of(case, mask_name, "dna", 64, torch.bfloat16, "flex_attention", gpu_device)
        failures += too_large(errors, "dna", torch.bfloat16, tokens, mask_name)
    assert not failures, "\n".join(failures)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["dna", "dna_shared_value", "softmax", "differential"])
def test_flex_attention_on_a_gpu_takes_additive_masks(gpu_device, fresh_compiler, variant):
    if gpu_device == "cpu":
        pytest.skip("flex attention takes no additive masks on CPU")
    module = random_attention(variant, head_dim=64).to(gpu_device, torch.bfloat16)
    tokens = random_tokens(module, tokens=65).to(gpu_device, torch.bfloat16)
    generator = torch.Generator().manual_seed(3)
    allowed = torch.rand(BATCH, 1, 65, 65, generator=generator) > 0.3
    allowed[0, :, 4] = False
    bias = torch.randn(allowed.shape, generator=generator).masked_fill(~allowed, -math.inf)
    mask = bias.to(gpu_device, torch.bfloat16)
    output, *_ = run(module, tokens, mask, implementation="flex_attention")
    assert torch.equal(output[0, 4], module.o_proj.bias)
    expected, *_ = run(module.double(), tokens.double(), mask.double())
    assert relative_error(output, expected.cpu()) <= OUTPUT_TOLERANCE[torch.bfloat16]


def random_attention(variant, head_dim=16, seed=0, **overrides):
    """A float64 layer with random values in all its parameters."""
    module = make_attention(variant, head_dim, **overrides).double()
    module.load_state_dict(draw_parameters(module, torch.Generator().manual_seed(seed)))
    return module


def random_tokens(module, tokens=9, seed=1, batch=BATCH):
    return draw(torch.Generator().manual_seed(seed), batch, tokens, module.o_proj.in_features)


def padding_mask(tokens=9):
    """Lets the first sample attend to all tokens but the last three, the second to all but the first."""
    allowed = torch.ones(BATCH, 1, 1, tokens, dtype=torch.bool)
    allowed[0, ..., -3:] = False
    allowed[1, ..., 0] = False
    return allowed


@torch.no_grad()
def run(module, *args, implementation="eager", **kwargs):
    return module(*args, implementation=implementation, **kwargs)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
@pytest.mark.parametrize("variant", ["dna", "dna_shared_value"])
def test_without_negative_branch_it_is_softmax_attention_bit_for_bit(variant, masked):
    module = random_attention(variant).float()
    module.negative_scale.data.zero_()
    softmax = make_attention("softmax")
    value = "v_pos_proj" if variant == "dna" else "v_proj"
    for target, source in {"q_proj": "q_pos_proj", "k_proj": "k_proj", "v_proj": value, "o_proj": "o_proj"}.items():
        softmax.get_submodule(target).load_state_dict(module.get_submodule(source).state_dict())
    tokens = random_tokens(module).float()
    mask = padding_mask() if masked else None
    output, first, _ = run(module, tokens, mask)
    expected, expected_map, _ = run(softmax, tokens, mask)
    assert torch.equal(output, expected)
    assert torch.equal(first, expected_map)


@pytest.mark.parametrize("masked", [False, True], ids=["full", "masked"])
def test_zero_negative_query_averages_the_values_of_unmasked_keys(masked):
    module = random_attention("dna")
    module.q_neg_proj.weight.data.zero_()
    module.q_neg_proj.bias.data.zero_()
    tokens = random_tokens(module)
    mask = padding_mask() if masked else torch.ones(BATCH, 1, 1, tokens.shape[1], dtype=torch.bool)
    output, _, negative = run(module, tokens, mask)
    alpha = module.negative_scale.detach().clone()
    module.negative_scale.data.zero_()
    branch = output - run(module, tokens, mask)[0]

    keep = mask[:, 0, 0, :, None].double()
    mean = (module.v_neg_proj(tokens) * keep).sum(dim=1) / keep.sum(dim=1)
    expected = (alpha.repeat_interleave(module.head_dim) * mean) @ module.o_proj.weight.T
    torch.testing.assert_close(branch, expected[:, None].expand_as(branch), rtol=1e-12, atol=1e-12)
    uniform = (keep / keep.sum(dim=1, keepdim=True)).transpose(1, 2)[:, None].expand_as(negative)
    torch.testing.assert_close(negative, uniform, rtol=1e-12, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_permuting_tokens_permutes_outputs(variant):
    module = random_attention(variant)
    tokens = random_tokens(module)
    order = torch.randperm(tokens.shape[1], generator=torch.Generator().manual_seed(2))
    output, *_ = run(module, tokens)
    permuted, *_ = run(module, tokens[:, order])
    torch.testing.assert_close(permuted, output[:, order], rtol=1e-12, atol=1e-12)
    cross, *_ = run(module, tokens, key_value_states=tokens[:, order])
    torch.testing.assert_close(cross, output, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["boolean", "lowest", "infinite"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_masked_keys_have_no_weight_and_no_influence(variant, form):
    module = random_attention(variant)
    tokens = random_tokens(module)
    allowed = padding_mask()
    lowest = torch.finfo(torch.float64).min if form == "lowest" else -math.inf
    mask = allowed if form == "boolean" else torch.zeros(allowed.shape).double().masked_fill(~allowed, lowest)
    output, *maps = run(module, tokens, mask)
    for weights in maps if variant in TWO_MAP_VARIANTS else maps[:1]:
        assert (weights[~allowed.expand_as(weights)] == 0).all()
        assert (weights[allowed.expand_as(weights)] != 0).all()

    changed = tokens.clone()
    changed[~allowed[:, 0, 0]] += 100.0
    for backend in ("eager", "sdpa"):
        before, *_ = run(module, tokens, mask, key_value_states=tokens, implementation=backend)
        after, *_ = run(module, tokens, mask, key_value_states=changed, implementation=backend)
        assert torch.equal(before, after)
    # a sample that was padded gives what it gives alone
    alone, *_ = run(module, tokens[:1, :-3])
    torch.testing.assert_close(output[:1, :-3], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_lowest_number_of_a_mask_means_minus_infinity(variant, backend, dtype):
    module = random_attention(variant).to(dtype)
    tokens = random_tokens(module).to(dtype)
    allowed = torch.rand(BATCH, 1, 9, 9, generator=torch.Generator().manual_seed(3)) > 0.5
    allowed[0, 0, 4] = False
    infinite = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, -math.inf)
    lowest = torch.zeros(allowed.shape, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)
    expected, *_ = run(module, tokens, allowed, implementation=backend)
    assert torch.equal(run(module, tokens, infinite, implementation=backend)[0], expected)
    assert torch.equal(run(module, tokens, lowest, implementation=backend)[0], expected)
    # the mask may be in float32 whatever the dtype of the model
    wide = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    assert torch.equal(run(module, tokens, wide, implementation=backend)[0], expected)
    assert torch.equal(expected[0, 4], module.o_proj.bias)


def test_shared_value_is_dna_with_equal_values():
    shared = random_attention("dna_shared_value")
    separate = random_attention("dna", seed=5)
    weights = dict(shared.state_dict())
    for kind in ("weight", "bias"):
        weights[f"v_pos_proj.{kind}"] = weights[f"v_neg_proj.{kind}"] = weights.pop(f"v_proj.{kind}")
    separate.load_state_dict(weights)
    tokens = random_tokens(shared)
    for result, expected in zip(
        run(separate, tokens, padding_mask()), run(shared, tokens, padding_mask()), strict=True
    ):
        assert torch.equal(result, expected)


def test_negating_the_scale_is_negating_the_negative_values():
    module, other = random_attention("dna"), random_attention("dna")
    module.negative_scale.data.neg_()
    other.v_neg_proj.weight.data.neg_()
    other.v_neg_proj.bias.data.neg_()
    tokens = random_tokens(module)
    for backend in ("eager", "sdpa"):
        result, expected = (run(m, tokens, padding_mask(), implementation=backend)[0] for m in (module, other))
        assert torch.equal(result, expected)
    assert not torch.allclose(result, run(random_attention("dna"), tokens, padding_mask())[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_rows_of_the_maps_sum_to_one(variant):
    module = random_attention(variant)
    mask = padding_mask().expand(-1, -1, 9, -1).clone()
    mask[1, :, 2] = False
    _, first, second = run(module, random_tokens(module), mask)
    assert (second is not None) == (variant in TWO_MAP_VARIANTS)
    expected = mask.any(dim=-1).double().expand(BATCH, HEADS, 9)
    for weights in (first,) if second is None else (first, second):
        assert weights.shape == (BATCH, HEADS, 9, 9)
        assert (variant == "cog") == bool((weights < 0).any())
        torch.testing.assert_close(weights.abs().sum(dim=-1), expected, rtol=1e-12, atol=0)


def rotate(states):
    """A rotary position embedding: turns pairs of channels by an angle that grows with the token."""
    half = states.shape[-1] // 2
    frequency = 10.0 ** (-torch.arange(half, dtype=states.dtype) / half)
    angle = torch.arange(states.shape[-2], dtype=states.dtype)[:, None] * frequency
    first, second = states[..., :half], states[..., half:]
    return torch.cat((first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()), dim=-1)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("variant", "calls"), {"dna": 3, "dna_shared_value": 3, "softmax": 2, "differential": 4, "cog": 2}.items()
)
def test_rotary_turns_queries_and_keys_only(variant, calls, backend):
    module = random_attention(variant)
    targets, sources = random_tokens(module, tokens=6), random_tokens(module, tokens=9, seed=7)
    seen = []

    def rotary(states):
        seen.append(tuple(states.shape))
        return rotate(states)

    output, *_ = run(module, targets, None, sources, rotary, implementation=backend)
    width = 8 if variant == "differential" else 16
    assert len(seen) == calls
    assert set(seen) == {(BATCH, HEADS, 6, width), (BATCH, HEADS, 9, width)}
    expected, *_ = reference_attention(
        variant, module.state_dict(), targets, sources, HEADS, rotary=rotate, layer_idx=LAYER
    )
    # differential attention rounds lambda to float32
    tolerance = 1e-6 if variant == "differential" else 1e-12
    torch.testing.assert_close(output, expected, rtol=0, atol=tolerance)
    assert not torch.allclose(output, run(module, targets, None, sources, implementation=backend)[0], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_extreme_logits_stay_finite(variant, backend, dtype):
    module = random_attention(variant)
    for name, parameter in module.named_parameters():
        if name.startswith(("q_", "k_")):
            parameter.data.mul_(100.0)
    tokens = random_tokens(module)
    scores = module._split_heads(module.get_submodule("k_proj")(tokens))
    assert (scores @ scores.mT).abs().max() / 4 > 1e4
    expected, *_ = reference_attention(variant, module.state_dict(), tokens, tokens, HEADS, layer_idx=LAYER)
    module = module.to(dtype)
    leaf = tokens.to(dtype).requires_grad_()
    output, *maps = module(leaf, implementation=backend)
    output.sum().backward()
    gradients = [leaf.grad] + [parameter.grad for parameter in module.parameters()]
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)
    for weights in maps:
        if weights is not None:
            tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-6
            ones = torch.ones(weights.shape[:-1], dtype=torch.float64)
            torch.testing.assert_close(weights.double().abs().sum(dim=-1), ones, rtol=tolerance, atol=0)
    if dtype == torch.float64:
        torch.testing.assert_close(output.detach(), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_tokens_give_what_one_of_them_gives(variant, backend):
    module = random_attention(variant)
    token = random_tokens(module, tokens=1)
    single, *_ = run(module, token, implementation=backend)
    output, *maps = run(module, token.expand(-1, 9, -1), implementation=backend)
    torch.testing.assert_close(output, single.expand(-1, 9, -1), rtol=1e-12, atol=1e-12)
    for weights in maps:
        if weights is not None:
            torch.testing.assert_close(weights.abs(), torch.full_like(weights, 1 / 9), rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_single_token_passes_its_values(backend):
    module = random_attention("dna")
    token = random_tokens(module, tokens=1)
    output, *_ = run(module, token, implementation=backend)
    scale = module.negative_scale.repeat_interleave(module.head_dim)
    with torch.no_grad():
        expected = module.o_proj(module.v_pos_proj(token) + scale * module.v_neg_proj(token))
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mask_name", ["none", "additive", "empty_row"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradcheck(variant, mask_name):
    module = make_attention(variant, head_dim=4).double()
    generator = torch.Generator().manual_seed(11)
    parameters = draw_parameters(module, generator)
    targets, sources = draw(generator, BATCH, 2, 12), draw(generator, BATCH, 3, 12)
    mask = as_tensor(draw_masks(generator, 2, 3)[mask_name], torch.float64)

    # lambda is rounded to float32, too coarse for finite differences; its gradients are compared with the reference
    constants = {name: parameters.pop(name) for name in list(parameters) if name.startswith("lambda_")}

    def output_of(targets, sources, *values):
        arguments = (targets, mask, sources)
        values = dict(zip(parameters, values, strict=True)) | constants
        return torch.func.functional_call(module, values, arguments, {"implementation": "eager"})[0]

    leaves = [leaf.requires_grad_() for leaf in (targets, sources, *parameters.values())]
    assert torch.autograd.gradcheck(output_of, leaves, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_attention_dropout_acts_in_training_only(variant, backend):
    dropped = random_attention(variant, attention_probs_dropout_prob=0.4)
    plain = random_attention(variant)
    tokens = random_tokens(plain)
    expected, expected_first, _ = run(plain, tokens, implementation=backend)
    assert torch.equal(run(dropped, tokens, implementation=backend)[0], expected)
    dropped.train()
    torch.manual_seed(0)
    output, first, _ = run(dropped, tokens, implementation=backend)
    assert not torch.allclose(output, expected)
    assert not torch.allclose(output, run(dropped, tokens, implementation=backend)[0])
    if backend == "eager":
        assert torch.equal(first, expected_first)  # the map is that before dropout
    plain.train()
    assert torch.equal(run(plain, tokens, implementation=backend)[0], expected)


def test_attention_dropout_keeps_the_expected_output():
    module = random_attention("dna", attention_probs_dropout_prob=0.3).train()
    tokens = random_tokens(module, batch=1)
    torch.manual_seed(0)
    mean = run(module, tokens.expand(5_000, -1, -1))[0].mean(dim=0)
    expected, *_ = run(module.eval(), tokens)
    assert relative_error(mean, expected[0]) < 0.02


def plain_config(**overrides):
    """Not a `DnAViTConfig`, whose own validation would come first."""
    values = {"hidden_size": 48, "num_attention_heads": 3, "num_hidden_layers": 4}
    values |= {
        "qkv_bias": True,
        "attention_probs_dropout_prob": 0.0,
        "attention_variant": "dna",
        "negative_scale_init": 0.5,
        "cog_softmax_layers": [0, -1],
        "_attn_implementation": "eager",
    }
    return SimpleNamespace(**values | overrides)


def test_unknown_variant_names_the_choices():
    with pytest.raises(ValueError, match="'linear'.*dna, dna_shared_value, softmax, differential, cog"):
        build_attention(plain_config(attention_variant="linear"), 0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_heads_that_do_not_divide_the_width_raise(variant):
    config = plain_config(attention_variant=variant, num_attention_heads=5, cog_softmax_layers=[])
    with pytest.raises(ValueError, match=r"hidden_size \(48\).*num_attention_heads \(5\)"):
        build_attention(config, 0)


def test_differential_heads_of_odd_width_raise():
    with pytest.raises(ValueError, match="15 wide"):
        build_attention(plain_config(attention_variant="differential", hidden_size=45), 0)


def test_cog_keeps_softmax_attention_in_the_chosen_layers():
    built = [type(build_attention(plain_config(attention_variant="cog"), layer)).__name__ for layer in range(4)]
    assert built == ["SoftmaxAttention", "CogAttention", "CogAttention", "SoftmaxAttention"]
    assert type(build_attention(plain_config(), 0)).__name__ == "DenoisingAttention"


@pytest.mark.parametrize("variant", VARIANTS)
def test_qkv_bias_is_optional_and_the_output_bias_is_not(variant):
    module = make_attention(variant, qkv_bias=False)
    names = [name for name, _ in module.named_parameters()]
    assert [name for name in names if name.endswith("bias")] == ["o_proj.bias"]
    assert sorted(name for name in names if name.endswith("_proj.weight")) == sorted(
        name for name, _ in make_attention(variant).named_parameters() if name.endswith("_proj.weight")
    )


def test_per_head_mask_under_flex_attention_raises():
    module = random_attention("dna")
    mask = padding_mask().expand(-1, HEADS, 9, -1)
    with pytest.raises(ValueError, match="flex_attention takes one mask for all heads"):
        run(module, random_tokens(module), mask, implementation="flex_attention")


def test_additive_mask_under_flex_attention_on_cpu_raises():
    module = random_attention("dna")
    mask = torch.zeros(1, 1, 1, 9).masked_fill(~padding_mask()[:1, :, :1], -torch.inf)
    with pytest.raises(ValueError, match="flex_attention on CPU.*use eager or sdpa"):
        run(module, random_tokens(module), mask, implementation="flex_attention")


def test_flex_attention_receives_masks_of_full_size():
    boolean = backend_mask(torch.ones(1, 1, 1, 7, dtype=torch.bool), "flex_attention", 2, 5, torch.bfloat16)
    assert boolean.shape == (2, 1, 5, 7)
    additive = backend_mask(torch.zeros(1, 1, 5, 7, device="meta"), "flex_attention", 2, 5, torch.bfloat16)
    assert (additive.shape, additive.dtype) == ((2, 1, 5, 7), torch.bfloat16)


@pytest.mark.parametrize("shape", [(1, 1, 1, 7), (2, 1, 1, 7), (1, 1, 5, 7), (2, 1, 5, 7)], ids=str)
def test_flex_attention_receives_boolean_masks_as_block_masks(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(4)) > 0.5
    block_mask = backend_mask(mask, "flex_attention", 2, 5, torch.float32)
    assert isinstance(block_mask, BlockMask)
    assert block_mask.shape == (2, 1, 5, 7)
    sample, query, key = torch.meshgrid(torch.arange(2), torch.arange(5), torch.arange(7), indexing="ij")
    allowed = block_mask.mask_mod(sample, torch.tensor(0), query, key)
    assert torch.equal(allowed, mask[:, 0].expand(2, 5, 7))
    assert backend_mask(block_mask, "flex_attention", 2, 5, torch.float32) is block_mask


def test_masks_that_are_not_four_dimensional_pass_through():
    mask = torch.ones(2, 9, dtype=torch.bool)
    marker = object()
    for backend in ("eager", "sdpa", "flex_attention", "flash_attention_2"):
        assert backend_mask(mask, backend, 2, 9, torch.float32) is mask
        assert backend_mask(marker, backend, 2, 9, torch.float32) is marker
        assert backend_mask(None, backend, 2, 9, torch.float32) is None


def test_cog_refuses_masks_it_cannot_read():
    module = random_attention("cog")
    with pytest.raises(ValueError, match="cog variant"):
        run(module, random_tokens(module), torch.ones(BATCH, 9, dtype=torch.bool), implementation="sdpa")


def test_masked_softmax_computes_half_precision_in_float32():
    scores = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.bfloat16)
    assert masked_softmax(scores).dtype == torch.float32
    assert masked_softmax(scores.double()).dtype == torch.float64
    mask = torch.tensor([[True, False, True]])
    expected = torch.tensor([[1.0, 0.0, math.e**2]]) / (1 + math.e**2)
    torch.testing.assert_close(masked_softmax(scores, mask), expected)


@pytest.mark.parametrize("layer_idx", [0, 1, 5])
def test_differential_lambda(layer_idx):
    module = make_attention("differential", layer_idx=layer_idx)
    assert module.lambda_init == pytest.approx(0.8 - 0.6 * math.exp(-0.3 * layer_idx))
    for vector in (module.lambda_q1, module.lambda_k1, module.lambda_q2, module.lambda_k2):
        nn.init.zeros_(vector)
    assert module.current_lambda().item() == pytest.approx(module.lambda_init)
    nn.init.ones_(module.lambda_q1)
    nn.init.constant_(module.lambda_k1, 0.1)
    assert module.current_lambda().item() == pytest.approx(math.exp(0.8) - 1 + module.lambda_init)


def test_negative_scale_starts_at_its_initial_value():
    assert make_attention("dna").negative_scale.tolist() == [0.5] * HEADS
    assert make_attention("dna_shared_value", negative_scale_init=-0.25).negative_scale.tolist() == [-0.25] * HEADS


def differential_from_timm(weights):
    """Weights of timm's differential attention, with its packed projection, under the names used here."""
    mapped = {f"lambda_{name}": weights[f"lambda_{name}"] for name in ("q1", "k1", "q2", "k2")}
    mapped["head_norm.weight"] = weights["sub_norm.weight"]
    for kind in ("weight", "bias"):
        mapped[f"o_proj.{kind}"] = weights[f"proj.{kind}"]
        for name, rows in zip("qkv", weights[f"qkv.{kind}"].chunk(3), strict=True):
            mapped[f"{name}_proj.{kind}"] = rows
    return mapped


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_differential_attention_equals_the_golden_vectors(golden, backend):
    weights = load_file(golden / "timm_diff_attention_depth0.weights.safetensors")
    tensors = load_file(golden / "timm_diff_attention_depth0.io.safetensors")
    module = make_attention("differential", head_dim=32, heads=2, layer_idx=0).double()
    module.load_state_dict(differential_from_timm(weights))
    output, *_ = run(module, tensors["input"], implementation=backend)
    torch.testing.assert_close(output, tensors["output"], rtol=0, atol=1e-10)
    # the layer rounds both terms of lambda to float32, as the original does; the reference does not
    expected, *_ = reference_attention(
        "differential", module.state_dict(), tensors["input"], tensors["input"], num_heads=2, layer_idx=0
    )
    torch.testing.assert_close(output, expected, rtol=0, atol=5e-7)
