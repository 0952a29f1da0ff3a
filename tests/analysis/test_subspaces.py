"""The subspace statistics against float64 loops, and on subspaces whose angles are known."""

import math

import numpy as np
import pytest
import torch

from dna_hf.analysis.errors import AnalysisError
from dna_hf.analysis.subspaces import (
    count_intruders,
    intruder_dimensions,
    left_singular_vectors,
    map_entropy,
    map_mass,
    principal_angles,
    signed_parts,
    token_cosine,
    trace_similarity,
)


BATCH, HEADS, TOKENS, WIDTH = 2, 3, 11, 6
DTYPES = {torch.float64: 1e-9, torch.float32: 1e-4}
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
both_directions = pytest.mark.parametrize("direction", ["negative", "positive"])
both_conventions = pytest.mark.parametrize("against", ["top_k", "all"])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pair(seed=0):
    """Outputs of two branches that share something, as those of a model do."""
    shared, own = draw(BATCH, HEADS, TOKENS, WIDTH, seed=seed), draw(BATCH, HEADS, TOKENS, WIDTH, seed=seed + 1)
    return shared, 0.7 * shared + own


def by_head(function, *tensors):
    """A function of numpy matrices, called on every sample and head in turn."""
    arrays = [tensor.double().numpy() for tensor in tensors]
    return np.array(
        [
            [function(*(array[sample, head] for array in arrays)) for head in range(arrays[0].shape[1])]
            for sample in range(arrays[0].shape[0])
        ]
    )


def loop_intruders(positive, negative, k, epsilon, direction, against):
    # left singular vectors are the eigenvectors of the Gram matrix of the tokens
    def leading(matrix, count):
        values, vectors = np.linalg.eigh(matrix @ matrix.T)
        order = sorted(range(len(values)), key=lambda index: -values[index])
        return [vectors[:, index] for index in order[:count]]

    others = k if against == "top_k" else WIDTH
    counted, compared = (negative, positive) if direction == "negative" else (positive, negative)
    count = 0
    for vector in leading(counted, k):
        nearest = 0.0
        for other in leading(compared, others):
            nearest = max(nearest, abs(sum(float(a) * float(b) for a, b in zip(vector, other, strict=True))))
        count += nearest < epsilon
    return count


@both_conventions
@both_directions
@pytest.mark.parametrize("k, epsilon", [(1, 0.5), (3, 0.3), (4, 0.5), (5, 0.8), (WIDTH, 0.6)])
def test_intruders_are_those_a_loop_counts(k, epsilon, direction, against):
    positive, negative = pair()
    expected = by_head(lambda p, n: loop_intruders(p, n, k, epsilon, direction, against), positive, negative)
    counts = intruder_dimensions(positive, negative, k, epsilon, direction, against)
    assert counts.tolist() == expected.tolist()


def test_directions_and_conventions_differ():
    positive, negative = pair()
    tables = {
        tuple(intruder_dimensions(positive, negative, 4, 0.5, direction, against).flatten().tolist())
        for direction in ("negative", "positive")
        for against in ("top_k", "all")
    }
    assert len(tables) > 2


@both_conventions
def test_one_decomposition_serves_every_k_and_epsilon(against):
    positive, negative = pair()
    ks, epsilons = [1, 2, 5], [0.2, 0.5, 0.9]
    table = count_intruders(*map(left_singular_vectors, (negative, positive)), ks, epsilons, against)
    assert table.shape == (BATCH, HEADS, 3, 3)
    for row, k in enumerate(ks):
        for column, epsilon in enumerate(epsilons):
            alone = intruder_dimensions(positive, negative, k, epsilon, against=against)
            assert torch.equal(table[..., row, column], alone)


@every_dtype
def test_trace_similarity_is_that_of_a_loop(dtype):
    first, second = pair()

    def loop(a, b):
        product = sum(a[i, j] * b[i, j] for i in range(TOKENS) for j in range(WIDTH))
        return product / math.sqrt(np.trace(a.T @ a) * np.trace(b.T @ b))

    actual = trace_similarity(first.to(dtype), second.to(dtype))
    assert actual.numpy() == pytest.approx(by_head(loop, first, second), abs=1e-6)
    assert trace_similarity(first, -second).numpy() == pytest.approx(-by_head(loop, first, second), abs=1e-6)


@every_dtype
def test_token_cosine_is_that_of_a_loop(dtype):
    first, second = pair()
    second[0, 0, 3] = 0

    def loop(a, b):
        cosines = []
        for token in range(TOKENS):
            sizes = math.sqrt(sum(x * x for x in a[token])) * math.sqrt(sum(x * x for x in b[token]))
            if sizes:
                cosines.append(sum(x * y for x, y in zip(a[token], b[token], strict=True)) / sizes)
        return sum(cosines) / len(cosines)

    actual = token_cosine(first.to(dtype), second.to(dtype))
    assert actual.numpy() == pytest.approx(by_head(loop, first, second), abs=1e-6)


@pytest.mark.parametrize("k", [1, 3, WIDTH])
def test_principal_angles_are_those_of_a_search(k):
    """The cosines of the angles are square roots of the eigenvalues of the product of the two projectors."""
    first, second = pair()

    def loop(a, b):
        projectors = []
        for matrix in (a, b):
            values, vectors = np.linalg.eigh(matrix @ matrix.T)
            leading = vectors[:, np.argsort(-values)[:k]]
            projectors.append(leading @ leading.T)
        eigenvalues = np.sort(np.linalg.eigvals(projectors[0] @ projectors[1]).real)[::-1][:k]
        return np.arccos(np.sqrt(np.clip(eigenvalues, 0, 1)))

    angles = principal_angles(*map(left_singular_vectors, (first, second)), k)
    assert angles.numpy() == pytest.approx(by_head(loop, first, second), abs=1e-6)


@every_dtype
def test_entropy_and_mass_are_those_of_loops(dtype):
    weights = draw(BATCH, HEADS, TOKENS, WIDTH).softmax(-1)
    weights[0, 1, 2, 1:] = 0  # all attention on one key, though the row no longer sums to 1
    weights[1, 0, 4] = 0

    def entropy(rows):
        total, used = 0.0, 0
        for row in rows:
            if row.sum() > 0:
                shares = [value / row.sum() for value in row]
                total += -sum(share * math.log(share) for share in shares if share > 0) / math.log(WIDTH)
                used += 1
        return total / used

    def mass(rows):
        return sum(float(value) for row in rows for value in row) / len(rows)

    assert map_entropy(weights.to(dtype)).numpy() == pytest.approx(by_head(entropy, weights), abs=1e-6)
    assert map_mass(weights.to(dtype)).numpy() == pytest.approx(by_head(mass, weights), abs=1e-6)


def test_the_parts_of_a_signed_map_add_up_to_it():
    weights = draw(BATCH, HEADS, TOKENS, TOKENS)
    positive, negative = signed_parts(weights)
    assert torch.equal(positive - negative, weights)
    assert positive.min() == 0 and negative.min() == 0 and not (positive * negative).any()


def test_entropy_is_0_for_one_key_and_1_for_all():
    assert map_entropy(torch.eye(TOKENS)).item() == 0
    assert map_entropy(torch.full((TOKENS, TOKENS), 1 / TOKENS)).item() == pytest.approx(1, abs=1e-6)


def orthonormal(count, seed=0):
    return torch.linalg.qr(draw(TOKENS, TOKENS, seed=seed))[0][:, :count]


def spanned(basis, seed=3):
    """Outputs whose left singular vectors are the columns of a basis, in this order."""
    count = basis.shape[1]
    right = torch.linalg.qr(draw(WIDTH, WIDTH, seed=seed))[0][:, :count]
    return basis * torch.arange(count, 0, -1.0, dtype=basis.dtype) @ right.T


@every_dtype
@both_directions
@both_conventions
def test_identical_subspaces_have_no_intruders(dtype, direction, against):
    output = spanned(orthonormal(4)).to(dtype)
    assert intruder_dimensions(output, -2 * output, 4, 1 - 1e-3, direction, against) == 0
    angles = principal_angles(left_singular_vectors(output), left_singular_vectors(-2 * output), 4)
    assert angles.max() < DTYPES[dtype]


@every_dtype
@both_directions
@both_conventions
def test_in_orthogonal_subspaces_all_are_intruders(dtype, direction, against):
    basis = orthonormal(10)
    first, second = spanned(basis[:, :5]).to(dtype), spanned(basis[:, 5:]).to(dtype)
    assert intruder_dimensions(first, second, 5, 1e-3, direction, against) == 5
    angles = principal_angles(left_singular_vectors(first), left_singular_vectors(second), 5)
    assert angles.numpy() == pytest.approx(np.full(5, math.pi / 2), abs=DTYPES[dtype])


@every_dtype
def test_rotated_subspaces_have_the_angles_of_the_rotation(dtype):
    rotations = torch.tensor([1e-3, 0.4, 1.0, 1.5], dtype=torch.float64)
    basis = orthonormal(8)
    turned = basis[:, :4] * rotations.cos() + basis[:, 4:] * rotations.sin()
    first, second = spanned(basis[:, :4]).to(dtype), spanned(turned).to(dtype)
    directions = left_singular_vectors(first), left_singular_vectors(second)
    assert principal_angles(*directions, 4).numpy() == pytest.approx(rotations.numpy(), abs=DTYPES[dtype])
    # cosines 1, 0.92, 0.54 and 0.07
    for epsilon, expected in ((0.05, 0), (0.5, 1), (0.6, 2), (0.95, 3)):
        assert intruder_dimensions(first, second, 4, epsilon) == expected


def test_small_angles_keep_their_digits():
    basis = orthonormal(4)
    turned = basis[:, :2] * math.cos(1e-10) + basis[:, 2:] * math.sin(1e-10)
    angles = principal_angles(left_singular_vectors(spanned(basis[:, :2])), left_singular_vectors(spanned(turned)), 2)
    assert angles.numpy() == pytest.approx(np.full(2, 1e-10), rel=1e-3)


@every_dtype
def test_directions_that_carry_nothing_are_no_intruders_and_hide_none(dtype):
    basis = orthonormal(9)
    low_rank, full = spanned(basis[:, :2]).to(dtype), spanned(basis[:, 1:7]).to(dtype)
    assert left_singular_vectors(low_rank).rank == 2
    # of two directions one is shared
    assert intruder_dimensions(full, low_rank, 5, 0.5, "negative", "all") == 1
    assert intruder_dimensions(full, low_rank, 5, 0.5, "positive", "all") == 4
    assert principal_angles(left_singular_vectors(full), left_singular_vectors(low_rank), 5).isnan().all()
    nothing = torch.zeros_like(full)
    assert intruder_dimensions(full, nothing, 5, 0.5, "negative") == 0
    assert intruder_dimensions(full, nothing, 5, 0.5, "positive") == 5


def test_what_is_0_over_0_is_not_a_number():
    nothing, something = torch.zeros(TOKENS, WIDTH), torch.ones(TOKENS, WIDTH)
    assert trace_similarity(nothing, something).isnan()
    assert token_cosine(nothing, something).isnan()
    assert map_entropy(nothing).isnan()
    assert map_entropy(torch.ones(TOKENS, 1)).isnan()
    assert map_mass(nothing) == 0


def test_half_precision_is_computed_in_float32():
    first, second = (states.bfloat16() for states in pair())
    for function in (trace_similarity, token_cosine):
        actual = function(first, second)
        assert actual.dtype == torch.float32
        assert actual.numpy() == pytest.approx(function(first.double(), second.double()).numpy(), abs=1e-6)


def test_what_cannot_be_asked_ends_in_a_sentence():
    positive, negative = pair()
    with pytest.raises(AnalysisError, match="k is 7, but outputs of 11 tokens and width 6 .*choose k between 1 and 6"):
        intruder_dimensions(positive, negative, k=7)
    with pytest.raises(AnalysisError, match="k is 0"):
        principal_angles(left_singular_vectors(positive), left_singular_vectors(negative), 0)
    with pytest.raises(AnalysisError, match=r"epsilon is 1.5.*\(0, 1\]"):
        intruder_dimensions(positive, negative, k=3, epsilon=1.5)
    with pytest.raises(AnalysisError, match="direction is 'up': choose negative or positive"):
        intruder_dimensions(positive, negative, k=3, direction="up")
    with pytest.raises(AnalysisError, match="against is 'some': choose top_k or all"):
        intruder_dimensions(positive, negative, k=3, against="some")
    with pytest.raises(AnalysisError, match="negative weights"):
        map_entropy(-torch.ones(2, 2))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(value):
    positive, negative = pair()
    negative[1, 2, 3, 4] = value
    for function in (lambda a, b: intruder_dimensions(a, b, 3), trace_similarity, token_cosine):
        with pytest.raises(AnalysisError, match="not finite"):
            function(positive, negative)
    for function in (map_entropy, map_mass):
        with pytest.raises(AnalysisError, match="not finite"):
            function(negative)
