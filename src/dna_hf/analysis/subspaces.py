"""What the two branches of an attention head share: the paper's statistics as functions of tensors.

All functions are batched over leading dimensions, usually (batch, heads), and compute in float32 or wider. What is
0 / 0 (the cosine of a zero vector, the entropy of an empty row) comes back as NaN; NaN in the input raises.

Source: Denoising Attention for Visual Tasks, ECCV 2026, arXiv:2606.27372, and its project page. The page names the
statistics but leaves much of their definition open. What is a choice made here is marked as one.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from .errors import AnalysisError


Direction = Literal["negative", "positive"]
Against = Literal["top_k", "all"]


def require_finite(states: torch.Tensor, name: str) -> None:
    """Raise an `AnalysisError` that calls the tensor `name` unless all its values are finite."""
    if not states.isfinite().all():
        raise AnalysisError(f"{name} has values that are not finite: look for where the model or its input breaks.")


def _prepare(states: torch.Tensor, name: str) -> torch.Tensor:
    require_finite(states, name)
    return states.to(torch.promote_types(states.dtype, torch.float32))


class Directions(NamedTuple):
    """Left singular vectors of matrices (..., tokens, width), with r = min(tokens, width).

    `vectors` (..., tokens, r) are orthonormal and begin with the largest singular value, `rank` (...) says how many of
    them carry anything. The others are arbitrary, and no statistic takes them for directions.
    """

    vectors: torch.Tensor
    rank: torch.Tensor

    @property
    def carried(self) -> torch.Tensor:
        """Which of the vectors are directions, (..., r)."""
        return torch.arange(self.vectors.shape[-1], device=self.rank.device) < self.rank[..., None]


def left_singular_vectors(output: torch.Tensor) -> Directions:
    """The directions of the outputs of a branch, (..., tokens, width), in the space of the tokens.

    Choice made here: a singular value counts as zero up to `largest * max(tokens, width) * eps`, the usual tolerance
    of a numerical rank.

    Raises:
        AnalysisError: for values that are not finite.
    """
    output = _prepare(output, "the output of a branch")
    vectors, values, _ = torch.linalg.svd(output, full_matrices=False)
    tolerance = values[..., :1] * max(output.shape[-2:]) * torch.finfo(output.dtype).eps
    return Directions(vectors, (values > tolerance).sum(dim=-1))


def check_top_k(k: int, tokens: int, width: int) -> None:
    """Raise an `AnalysisError` unless outputs (tokens, width) have `k` singular vectors."""
    if not 1 <= k <= min(tokens, width):
        raise AnalysisError(
            f"k is {k}, but outputs of {tokens} tokens and width {width} have {min(tokens, width)} singular vectors: "
            f"choose k between 1 and {min(tokens, width)}."
        )


def check_epsilon(epsilon: float) -> None:
    """Raise an `AnalysisError` unless `epsilon` is a threshold on a cosine, in (0, 1]."""
    if not 0 < epsilon <= 1:
        raise AnalysisError(f"epsilon is {epsilon}, but it is compared with a cosine: choose one in (0, 1].")


def count_intruders(
    counted: Directions,
    others: Directions,
    ks: Sequence[int],
    epsilons: Sequence[float],
    against: Against = "top_k",
) -> torch.Tensor:
    """Intruder dimensions for many `k` and `epsilon` from one decomposition of each branch.

    Direction `u_j`, with `j <= k`, is an intruder if `max_i |<w_i, u_j>| < epsilon`, where `w_i` are the directions of
    the other branch.

    Args:
        counted: directions of the branch whose intruders are counted.
        others: directions of the branch that they are compared with.
        ks: how many leading directions to look at.
        epsilons: thresholds on the cosine, in (0, 1].
        against: compare with the first `k` directions of the other branch, or with `"all"` of them.

    Returns:
        Counts (..., len(ks), len(epsilons)).

    Raises:
        AnalysisError: for a `k` or `epsilon` out of range.
    """
    tokens, width = counted.vectors.shape[-2:]
    for k in ks:
        check_top_k(k, tokens, width)
    for epsilon in epsilons:
        check_epsilon(epsilon)
    if against not in ("top_k", "all"):
        raise AnalysisError(f"against is {against!r}: choose top_k or all.")
    cosines = (others.vectors.transpose(-1, -2) @ counted.vectors).abs()
    cosines = cosines.masked_fill(~others.carried[..., None], 0.0)
    thresholds = torch.tensor(epsilons, dtype=cosines.dtype, device=cosines.device)
    counts = []
    for k in ks:
        compared = cosines[..., :k, :k] if against == "top_k" else cosines[..., :k]
        foreign = compared.amax(dim=-2)[..., None] < thresholds
        counts.append((foreign & counted.carried[..., :k, None]).sum(dim=-2))
    return torch.stack(counts, dim=-2)


def intruder_dimensions(
    positive: torch.Tensor,
    negative: torch.Tensor,
    k: int = 10,
    epsilon: float = 0.5,
    direction: Direction = "negative",
    against: Against = "top_k",
) -> torch.Tensor:
    """How many leading directions of one branch's output are foreign to the other branch.

    Project page: decompose the output of each branch, `A+ V+` and `A- V-` per sample, head and layer, and count those
    of the top-k left singular vectors of one whose cosine similarity to the vectors of the other stays below a
    threshold. It reports peaks of 8 to 9 for denoising attention and 6 to 7 for differential attention. It states
    neither `k` nor the threshold, nor which branch is counted, nor what "the vectors of the other" are: all four are
    arguments. Their defaults are choices made here; `k = 10` because counts of 9 occur. So is the absolute value of
    the cosine, since the sign of a singular vector is arbitrary.

    Args:
        positive: output of the positive branch, (..., tokens, width), before alpha.
        negative: output of the negative branch, (..., tokens, width), before alpha.
        k: how many directions of a branch to look at.
        epsilon: a direction below this cosine with every vector of the other branch is an intruder.
        direction: the branch whose directions are counted.
        against: directions of the other branch that count: its first `k` (`"top_k"`), or `"all"`.

    Returns:
        Counts (...), between 0 and `k`.

    Raises:
        AnalysisError: for an argument out of range, or values that are not finite.
    """
    if direction not in ("negative", "positive"):
        raise AnalysisError(f"direction is {direction!r}: choose negative or positive.")
    check_top_k(k, *positive.shape[-2:])
    counted, others = (negative, positive) if direction == "negative" else (positive, negative)
    counts = count_intruders(left_singular_vectors(counted), left_singular_vectors(others), [k], [epsilon], against)
    return counts[..., 0, 0]


def principal_angles(first: Directions, second: Directions, k: int = 10) -> torch.Tensor:
    """Angles between the spans of the first `k` directions of two branches.

    The cosines are the singular values of `U^T W`, the sines those of `W - U U^T W`; both are used, since arccos alone
    loses half the digits of a small angle (Björck & Golub, Numerical methods for computing angles between linear
    subspaces, Mathematics of Computation 27, 1973).

    Returns:
        Angles (..., k) in radians, from the smallest, in [0, pi / 2]; NaN where a branch has fewer than `k`
        directions.

    Raises:
        AnalysisError: for a `k` out of range.
    """
    check_top_k(k, first.vectors.shape[-2], first.vectors.shape[-1])
    left, right = first.vectors[..., :k], second.vectors[..., :k]
    overlap = left.transpose(-1, -2) @ right
    cosines = torch.linalg.svdvals(overlap)
    sines = torch.linalg.svdvals(right - left @ overlap).flip(-1)
    missing = (first.rank < k) | (second.rank < k)
    return torch.atan2(sines, cosines).masked_fill(missing[..., None], math.nan)


def trace_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Normalised trace similarity, the cosine of two matrices (..., tokens, width) taken as vectors.

        s = tr(A^T B) / sqrt(tr(A^T A) tr(B^T B))

    Project page, of the projected values V+ and V- per sample, head and layer: a mean of 0.22 and a median of 0.18
    over 7.2M values. Choice made here: the sign is kept, where the page does not say whether it takes the absolute
    value. Negating V- negates `s`.

    Returns:
        Similarities (...) in [-1, 1]; NaN where a matrix is zero.

    Raises:
        AnalysisError: for values that are not finite.
    """
    return _cosine(first.flatten(-2), second.flatten(-2))


def token_cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosine of the outputs of two branches (..., tokens, width), per token and averaged over the tokens.

    Project page: a mean of 0.32 for denoising and 0.96 for differential attention. It does not say whether tokens or
    whole heads are compared: this compares tokens, [`trace_similarity`] heads. Choice made here: the outputs are taken
    before alpha, whose sign would turn the cosine and whose size does not matter.

    Returns:
        Cosines (...) in [-1, 1]. Tokens with an output of zero are left out; NaN where none is left.

    Raises:
        AnalysisError: for values that are not finite.
    """
    return _cosine(first, second).nanmean(dim=-1)


def _cosine(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosines of vectors (..., width); NaN for a zero vector."""
    first, second = _prepare(first, "the first tensor"), _prepare(second, "the second tensor")
    product = (first * second).sum(dim=-1)
    # rounding may leave [-1, 1] by an ulp; NaN stays
    return (product / (first.norm(dim=-1) * second.norm(dim=-1))).clamp(-1.0, 1.0)


def map_entropy(weights: torch.Tensor) -> torch.Tensor:
    """How evenly a map (..., queries, keys) spreads its attention, averaged over the queries.

        H = -sum_j p_j log(p_j) / log(keys),  with p a row divided by its sum

    Choice made here; the project page has no such statistic. 0: one key takes all; 1: all keys take the same.

    Args:
        weights: not negative; see [`signed_parts`] for signed maps.

    Returns:
        Entropies (...) in [0, 1]. Rows of zeros are left out; NaN where none is left, and for a single key.

    Raises:
        AnalysisError: for values that are negative or not finite.
    """
    weights = _prepare(weights, "an attention map")
    if (weights < 0).any():
        raise AnalysisError("the entropy of a map with negative weights is undefined: split it with signed_parts.")
    share = weights / weights.sum(dim=-1, keepdim=True)
    # torch: 0 / 0 is NaN, which is what a single key has
    uniform = torch.tensor(float(weights.shape[-1]), dtype=weights.dtype, device=weights.device).log()
    return (torch.special.entr(share).sum(dim=-1) / uniform).nanmean(dim=-1).clamp(max=1.0)


def map_mass(weights: torch.Tensor) -> torch.Tensor:
    """Sum of the weights of a query, averaged over the queries of a map (..., queries, keys).

    1 for a softmax or softmin map, less where some queries may attend to nothing; of the parts of a signed map, how
    its attention divides into added and subtracted. Choice made here; the project page has no such statistic.

    Raises:
        AnalysisError: for values that are not finite.
    """
    return _prepare(weights, "an attention map").sum(dim=-1).mean(dim=-1)


def signed_parts(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The positive and the negative part of a signed map, both not negative: `weights = first - second`."""
    return weights.clamp(min=0), (-weights).clamp(min=0)
