"""The attention variants written from their equations, in float64 and one head at a time, to compare the package with.

Nothing here is taken from the package. The functions are differentiable, so that autograd through them gives reference
gradients. Conventions, per head, with `d` the width of the queries and keys that are multiplied:

    dna               softmax(q+ k^T / sqrt(d)) v+  +  alpha * softmin(q- k^T / sqrt(d)) v-
    dna_shared_value  the same with v- = v+
    softmax           softmax(q k^T / sqrt(d)) v
    differential      rms_norm((A1 - lambda * A2) v) * (1 - lambda_init)  with  Ai = softmax(qi ki^T / sqrt(d))
    cog               sign(s) * softmax(abs(s)) v  with  s = q k^T / sqrt(d)

A mask is given as which keys are allowed and as a bias on the logits that a softmax receives. A key that is not
allowed has weight 0; a query with no allowed key has the output 0 before the output projection.
"""

import math

import torch


def attention_map(logits, allowed):
    """`exp(logits)` over its sum along the allowed keys, 0 elsewhere; both arguments are (queries, keys)."""
    largest = logits.detach().masked_fill(~allowed, -math.inf).amax(dim=-1, keepdim=True)
    largest = torch.where(largest.isfinite(), largest, 0.0)
    exponentials = torch.where(allowed, torch.exp(torch.where(allowed, logits - largest, 0.0)), 0.0)
    total = exponentials.sum(dim=-1, keepdim=True)
    return exponentials / torch.where(total > 0, total, 1.0)


def softmax_head(query, key, value, allowed, bias):
    scores = query @ key.T / math.sqrt(query.shape[-1])
    weights = attention_map(scores + bias, allowed)
    return weights @ value, weights


def denoising_head(query_positive, query_negative, key, value_positive, value_negative, alpha, allowed, bias):
    root = math.sqrt(key.shape[-1])
    positive = attention_map(query_positive @ key.T / root + bias, allowed)
    # softmin(z) = softmax(-z); a mask forbids keys of either branch, so that it is not negated
    negative = attention_map(-(query_negative @ key.T / root) + bias, allowed)
    return positive @ value_positive + alpha * (negative @ value_negative), positive, negative


def differential_head(query, key, value, vectors, norm_weight, layer_idx, rotary, allowed, bias):
    half = query.shape[-1] // 2
    lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer_idx)
    lambda_q1, lambda_k1, lambda_q2, lambda_k2 = vectors
    scale = torch.exp(lambda_q1 @ lambda_k1) - torch.exp(lambda_q2 @ lambda_k2) + lambda_init
    _, first = softmax_head(rotary(query[:, :half]), rotary(key[:, :half]), value, allowed, bias)
    _, second = softmax_head(rotary(query[:, half:]), rotary(key[:, half:]), value, allowed, bias)
    output = (first - scale * second) @ value
    output = output / torch.sqrt(output.pow(2).mean(dim=-1, keepdim=True) + 1e-5)
    return output * norm_weight * (1 - lambda_init), first, second


def cog_head(query, key, value, allowed, bias):
    scores = query @ key.T / math.sqrt(query.shape[-1])
    weights = torch.sign(scores) * attention_map(torch.abs(scores) + bias, allowed)
    return weights @ value, weights


def reference_attention(
    variant, weights, targets, sources, num_heads, allowed=None, bias=None, rotary=None, layer_idx=0
):
    """One attention layer.

    Args:
        variant: name of the variant.
        weights: its parameters by name; of a projection `x`, `x_proj.weight` (width, width) and `x_proj.bias` (width).
        targets: (batch, queries, width), what the queries are made of.
        sources: (batch, keys, width), what the keys and values are made of.
        num_heads: number of heads.
        allowed: boolean, broadcastable to (batch, heads, queries, keys); all by default.
        bias: added to the logits, broadcastable to the same; none by default.
        rotary: applied to the queries and keys of a head, (tokens, d); none by default.
        layer_idx: index of the layer, which differential attention depends on.

    Returns:
        The output (batch, queries, width), the first map and the second map or `None`; maps are (batch, heads,
        queries, keys).
    """
    rotary = rotary or (lambda states: states)
    batch, queries, width = targets.shape
    shape = (batch, num_heads, queries, sources.shape[1])
    allowed = torch.ones(shape, dtype=torch.bool) if allowed is None else allowed.expand(shape)
    bias = torch.zeros(shape, dtype=torch.float64) if bias is None else bias.expand(shape)
    head_dim = width // num_heads

    def project(name, states, head):
        rows = slice(head * head_dim, (head + 1) * head_dim)
        projected = states @ weights[f"{name}_proj.weight"][rows].T
        if f"{name}_proj.bias" in weights:
            projected = projected + weights[f"{name}_proj.bias"][rows]
        return projected

    outputs, first_maps, second_maps = [], [], []
    for sample in range(batch):
        target, source = targets[sample], sources[sample]
        for head in range(num_heads):
            mask = (allowed[sample, head], bias[sample, head])
            key = project("k", source, head)
            if variant in ("dna", "dna_shared_value"):
                positive, negative = ("v_pos", "v_neg") if variant == "dna" else ("v", "v")
                output, first, second = denoising_head(
                    rotary(project("q_pos", target, head)),
                    rotary(project("q_neg", target, head)),
                    rotary(key),
                    project(positive, source, head),
                    project(negative, source, head),
                    weights["negative_scale"][head],
                    *mask,
                )
            elif variant == "differential":
                query, value = project("q", target, head), project("v", source, head)
                vectors = [weights[f"lambda_{name}"] for name in ("q1", "k1", "q2", "k2")]
                output, first, second = differential_head(
                    query, key, value, vectors, weights["head_norm.weight"], layer_idx, rotary, *mask
                )
            else:
                head_function = {"softmax": softmax_head, "cog": cog_head}[variant]
                query, value = project("q", target, head), project("v", source, head)
                output, first = head_function(rotary(query), rotary(key), value, *mask)
                second = None
            outputs.append(output)
            first_maps.append(first)
            second_maps.append(second)

    output = torch.stack(outputs).unflatten(0, (batch, num_heads)).transpose(1, 2).flatten(2)
    output = output @ weights["o_proj.weight"].T + weights["o_proj.bias"]
    first_map = torch.stack(first_maps).unflatten(0, (batch, num_heads))
    if second_maps[0] is None:
        return output, first_map, None
    return output, first_map, torch.stack(second_maps).unflatten(0, (batch, num_heads))
