"""Measure formulations of Denoising Attention on many short series, as divided attention over time has them.

usage: measure_temporal_attention.py [--parts PART ...] [--frames N ...] [--clips N ...] [--only FORMULATION ...]
                                     [--device cuda] [--dtype bfloat16]

A clip of 224 pixels has 196 series of as many tokens as frames; 12 heads of 64 channels. Prints Markdown tables: the
time of two calls of sdpa, which is what the models do, and how many times faster every other formulation is. All of
them are timed in turn, in one process; every figure is the best of its repeats. On CPU it is processor time, which
other work on the machine disturbs less: set OMP_NUM_THREADS=1. A formulation that is off from sdpa ends the script.

The parts: `core` is attention between the projections and the output projection, `module` the attention module,
`layer` a whole layer of the TimeSformer, where attention over space stays as it is.
"""

import argparse
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from dna_hf.models import DnATimesformerConfig, attention_variants
from dna_hf.models.attention_variants import DenoisingAttention, denoising_attention, softmax_attention
from dna_hf.models.modeling_dna_timesformer import DnATimesformerDividedLayer


HEADS, HEAD_DIM, PATCHES = 12, 64, 196


# --- formulations: (q+, q-, k, v+, v-, alpha) of (series, heads, frames, d) -> (series, frames, heads, d)


def sdpa_branch(query, key, value):
    """One branch by sdpa, and its map, which there is none of."""
    return torch.nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2), None


def two_sdpa(*inputs):
    """What the models do under sdpa."""
    return denoising_attention(*inputs, sdpa_branch)[0]


def math_sdpa(*inputs):
    """The same by the kernel that writes the maps down."""
    with sdpa_kernel(SDPBackend.MATH):
        return two_sdpa(*inputs)


def one_sdpa(query_positive, query_negative, key, value_positive, value_negative, scale):
    """Both branches as one batch."""
    query, value = torch.cat((query_positive, -query_negative)), torch.cat((value_positive, value_negative))
    positive, negative = sdpa_branch(query, torch.cat((key, key)), value)[0].chunk(2)
    return positive + scale[:, None] * negative


def eager(*inputs):
    """What the models do under eager."""
    return denoising_attention(*inputs, softmax_attention)[0]


def one_matmul(query_positive, query_negative, key, value_positive, value_negative, scale):
    """Both branches as one: queries side by side for the scores, values side by side for the output."""
    scores = torch.cat((query_positive, -query_negative), dim=2) @ key.mT * HEAD_DIM**-0.5
    positive, negative = scores.softmax(dim=-1).chunk(2, dim=2)
    weights = torch.cat((positive, scale[:, None, None] * negative), dim=-1)
    return (weights @ torch.cat((value_positive, value_negative), dim=2)).transpose(1, 2)


def bmm_branch(query, key, value):
    """One branch by products of contiguous matrices, the factor folded into the first."""
    query, key, value = (states.flatten(0, 1) for states in (query, key, value))
    scores = torch.baddbmm(query.new_zeros(()), query, key.mT, beta=0, alpha=HEAD_DIM**-0.5)
    return torch.bmm(scores.softmax(dim=-1), value).unflatten(0, (-1, HEADS)).transpose(1, 2), None


def bmm(*inputs):
    """Both branches by `bmm_branch`."""
    return denoising_attention(*inputs, bmm_branch)[0]


FORMULATIONS = {
    "sdpa": two_sdpa,
    "sdpa, math kernel": math_sdpa,
    "one call of sdpa": one_sdpa,
    "eager": eager,
    "one matmul": one_matmul,
    "bmm": bmm,
}


# --- parts


def make_core(series, frames, factory):
    """The function to time, which takes a formulation, and its leaves."""
    states = [torch.randn(series, frames, HEADS * HEAD_DIM, **factory).requires_grad_() for _ in range(5)]
    scale = torch.full((HEADS,), 0.5, **factory).requires_grad_()

    def run(formulation):
        heads = (each.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2) for each in states)
        return formulation(*heads, scale).flatten(2)

    return run, [*states, scale]


def with_formulation(formulation, frames, call):
    """Call a model in which series of `frames` tokens take a formulation."""

    def replacement(*inputs):
        states, attend = inputs[:-1], inputs[-1]
        if states[2].shape[2] != frames:
            return denoising_attention(*states, attend)
        return formulation(*states), None, None

    attention_variants.denoising_attention = replacement
    try:
        return call()
    finally:
        attention_variants.denoising_attention = denoising_attention


def make_config(frames):
    """The paper's TimeSformer, by sdpa."""
    return DnATimesformerConfig(num_frames=frames, drop_path_rate=0.0, attn_implementation="sdpa")


def make_module(series, frames, factory):
    """See `make_core`."""
    module = DenoisingAttention(make_config(frames), 0).to(**factory)
    states = torch.randn(series, frames, HEADS * HEAD_DIM, **factory).requires_grad_()
    leaves = [states, *module.parameters()]
    return lambda formulation: with_formulation(formulation, frames, lambda: module(states)[0]), leaves


def make_layer(series, frames, factory):
    """See `make_core`."""
    layer = DnATimesformerDividedLayer(make_config(frames), 0).to(**factory)
    tokens = 1 + PATCHES * frames
    states = torch.randn(series // PATCHES, tokens, HEADS * HEAD_DIM, **factory).requires_grad_()
    leaves = [states, *layer.parameters()]
    return lambda formulation: with_formulation(formulation, frames, lambda: layer(states, frames)), leaves


PARTS = {"core": make_core, "module": make_module, "layer": make_layer}


# --- timing


def clock(device):
    """Seconds, after all work on the device."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(run, formulation, leaves, cotangent, device):
    """Seconds of one forward pass, or of a forward and a backward pass if there is a cotangent."""
    for leaf in leaves:
        leaf.grad = None
    start = clock(device)
    if cotangent is None:
        with torch.no_grad():
            run(formulation)
    else:
        run(formulation).backward(cotangent)
    return clock(device) - start


def best_times(run, formulations, leaves, cotangent, device, seconds):
    """Best time of every formulation, taken in turn until `seconds` have passed, four times at least."""
    best, rounds, start = dict.fromkeys(formulations, float("inf")), 0, time.perf_counter()
    while rounds < 5 or time.perf_counter() - start < seconds:
        for name in formulations:
            duration = timed(run, FORMULATIONS[name], leaves, cotangent, device)
            # the first round warms up
            best[name] = min(best[name], duration) if rounds else best[name]
        rounds += 1
    return best


def main() -> None:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--frames", nargs="+", type=int, default=[4, 8, 16, 32, 64])
    parser.add_argument("--clips", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--only", nargs="+", choices=FORMULATIONS, default=list(FORMULATIONS), metavar="FORMULATION")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--dtype", default="float32", help="of weights and inputs (default: %(default)s)")
    arguments = parser.parse_args()
    names = ["sdpa", *(name for name in arguments.only if name != "sdpa")]
    factory = {"device": arguments.device, "dtype": getattr(torch, arguments.dtype)}
    for part in arguments.parts:
        print(f"\n### {part}, {arguments.dtype}, {arguments.device.type}, torch {torch.__version__}\n")
        print(f"| frames | clips | pass | sdpa, ms | {' | '.join(names[1:])} |\n|---|---|---|{'---:|' * len(names)}")
        for frames in arguments.frames:
            for clips in arguments.clips:
                measure(part, frames, clips, names, factory, arguments.seconds)


def measure(part, frames, clips, names, factory, seconds) -> None:
    """Print the rows of one setting."""
    torch.manual_seed(0)
    series = PATCHES * clips
    run, leaves = PARTS[part](series, frames, factory)
    with torch.no_grad():
        expected = run(two_sdpa)
        for name in names:
            error = (run(FORMULATIONS[name]) - expected).norm() / expected.norm()
            assert error < (1e-5 if factory["dtype"] == torch.float32 else 3e-2), f"{name} is off by {error:.1e}"
    for label, cotangent in (("forward", None), ("forward, backward", torch.randn_like(expected))):
        best = best_times(run, names, leaves, cotangent, factory["device"], seconds)
        ratios = [f"{best['sdpa'] / best[name]:.2f}" for name in names[1:]]
        print(f"| {frames} | {clips} | {label} | {1000 * best['sdpa']:.1f} | {' | '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
