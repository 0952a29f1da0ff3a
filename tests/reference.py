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


def layer_norm(states, weight, bias, eps):
    centred = states - states.mean(dim=-1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(dim=-1, keepdim=True) + eps) * weight + bias


def gelu(states):
    return states * (1 + torch.erf(states / math.sqrt(2))) / 2


def cubic_kernel(distance, a=-0.75):
    distance = abs(distance)
    if distance <= 1:
        return (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    if distance < 2:
        return a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return 0.0


def linear_kernel(distance):
    return max(0.0, 1.0 - abs(distance))


def resampling_weights(kernel, old, new):
    """(new, old): how much of each of `old` cells each of `new` cells takes, the ends being repeated outside."""
    weights = torch.zeros(new, old, dtype=torch.float64)
    for target in range(new):
        centre = (target + 0.5) * old / new - 0.5
        for source in range(math.floor(centre) - 2, math.floor(centre) + 4):
            weights[target, min(max(source, 0), old - 1)] += kernel(centre - source)
    return weights


def resampled_positions(positions, old_grid, new_grid):
    """Positions (rows * columns, width) of another grid (rows, columns), by cubic convolution along either side."""
    table = positions.unflatten(0, old_grid)
    rows, columns = (resampling_weights(cubic_kernel, old, new) for old, new in zip(old_grid, new_grid, strict=True))
    return torch.einsum("ar,bc,rcw->abw", rows, columns, table).flatten(0, 1)


def resampled_times(times, new):
    """Times (frames, width) of another number of frames, linear between the middles of the frames."""
    return resampling_weights(linear_kernel, times.shape[0], new) @ times


class ReferenceTimesformer:
    """The TimeSformer, one token at a time; its tokens are kept in a dictionary by (frame, row, column).

    Args:
        variants: name of the attention variant of every layer.
        attention_type: `divided_space_time`, `joint_space_time` or `space_only`.
        weights: the parameters of the model without a head, by name.
        num_heads: number of heads.
        patch_size: height and width of a patch.
        grid: rows and columns of the position table.
        eps: epsilon of the layer norms.

    `spatial_maps` and `temporal_maps` keep the maps of the last call, one dictionary per layer, by (video, frame) and
    (video, row, column); under `joint_space_time` by the video alone. Each is a pair of the first map and the second.
    """

    def __init__(self, variants, attention_type, weights, num_heads, patch_size, grid, eps=1e-6):
        self.variants, self.attention_type, self.weights = variants, attention_type, weights
        self.num_heads, self.patch_size, self.grid, self.eps = num_heads, patch_size, grid, eps

    def __call__(self, videos):
        """The normalised tokens: of each video (frames, channels, height, width) the class token and a dictionary.

        Under `space_only` the tokens are averaged over the frames, and the dictionary is by (row, column).
        """
        self.spatial_maps = [{} for _ in self.variants]
        self.temporal_maps = [{} for _ in self.variants]
        return [self.video(index, video) for index, video in enumerate(videos)]

    def norm(self, name, states):
        return layer_norm(states, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], self.eps)

    def linear(self, name, states):
        return states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def attend(self, name, layer, sequence, maps, key):
        """One sequence of tokens (tokens, width) through an attention module; keeps its maps."""
        prefix = f"layers.{layer}.{name}."
        own = {full.removeprefix(prefix): tensor for full, tensor in self.weights.items() if full.startswith(prefix)}
        output, first, second = reference_attention(
            self.variants[layer], own, sequence[None], sequence[None], self.num_heads, layer_idx=layer
        )
        maps[layer][key] = (first[0], None if second is None else second[0])
        return output[0]

    def embed(self, video):
        """The class token and the patch tokens by (frame, row, column)."""
        frames, _, height, width = video.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        class_position, positions = self.weights["embeddings.position_embeddings"][0].split(
            [1, self.grid[0] * self.grid[1]]
        )
        if (rows, columns) != self.grid:
            positions = resampled_positions(positions, self.grid, (rows, columns))
        kernel = self.weights["embeddings.patch_embeddings.projection.weight"].flatten(1)
        bias = self.weights["embeddings.patch_embeddings.projection.bias"]
        patches = {}
        for frame in range(frames):
            for row in range(rows):
                for column in range(columns):
                    top, left = row * self.patch_size, column * self.patch_size
                    pixels = video[frame, :, top : top + self.patch_size, left : left + self.patch_size]
                    patches[frame, row, column] = kernel @ pixels.flatten() + bias + positions[row * columns + column]
        if self.attention_type != "space_only":
            times = self.weights["embeddings.time_embeddings"][0]
            if frames != times.shape[0]:
                times = resampled_times(times, frames)
            patches = {key: patch + times[key[0]] for key, patch in patches.items()}
        return self.weights["embeddings.cls_token"][0, 0] + class_position[0], patches

    def mlp(self, layer, token):
        hidden = self.norm(f"layers.{layer}.layernorm_after", token)
        hidden = gelu(self.linear(f"layers.{layer}.mlp.fc1", hidden))
        return token + self.linear(f"layers.{layer}.mlp.fc2", hidden)

    def video(self, index, video):
        class_token, patches = self.embed(video)
        if self.attention_type == "divided_space_time":
            for layer in range(len(self.variants)):
                class_token, patches = self.divided_layer(index, layer, class_token, patches)
        elif self.attention_type == "joint_space_time":
            for layer in range(len(self.variants)):
                class_token, patches = self.plain_layer(layer, class_token, patches, index)
        else:
            frames, places = range(video.shape[0]), [key[1:] for key in patches if key[0] == 0]
            class_tokens = []
            for frame in frames:
                own_class_token, own = class_token, {place: patches[(frame, *place)] for place in places}
                for layer in range(len(self.variants)):
                    own_class_token, own = self.plain_layer(layer, own_class_token, own, (index, frame))
                class_tokens.append(own_class_token)
                patches |= {(frame, *place): token for place, token in own.items()}
            class_token = sum(class_tokens) / len(frames)
            patches = {place: sum(patches[(frame, *place)] for frame in frames) / len(frames) for place in places}
        return self.norm("layernorm", class_token), {
            key: self.norm("layernorm", token) for key, token in patches.items()
        }

    def spatial(self, layer, class_token, patches, key):
        """What attention over the class token and the patches adds to them; the patches in the order of rows."""
        # the frame, where there is one, changes fastest
        order = sorted(patches, key=lambda place: (place[-2], place[-1], place[:-2]))
        sequence = torch.stack([class_token, *(patches[place] for place in order)])
        sequence = self.norm(f"layers.{layer}.layernorm_before", sequence)
        first, *others = self.attend("attention", layer, sequence, self.spatial_maps, key)
        return first, dict(zip(order, others, strict=True))

    def plain_layer(self, layer, class_token, patches, key):
        added, others = self.spatial(layer, class_token, patches, key)
        patches = {place: self.mlp(layer, token + others[place]) for place, token in patches.items()}
        return self.mlp(layer, class_token + added), patches

    def divided_layer(self, index, layer, class_token, patches):
        frames, places = sorted({key[0] for key in patches}), sorted({key[1:] for key in patches})
        after_time = {}
        for place in places:
            series = torch.stack([patches[(frame, *place)] for frame in frames])
            series = self.norm(f"layers.{layer}.temporal_layernorm", series)
            attended = self.attend("temporal_attention", layer, series, self.temporal_maps, (index, *place))
            attended = self.linear(f"layers.{layer}.temporal_dense", attended)
            for frame in frames:
                after_time[(frame, *place)] = patches[(frame, *place)] + attended[frame]
        added, new = [], {}
        for frame in frames:
            own = {place: after_time[(frame, *place)] for place in places}
            class_added, others = self.spatial(layer, class_token, own, (index, frame))
            added.append(class_added)
            new |= {(frame, *place): self.mlp(layer, own[place] + others[place]) for place in places}
        return self.mlp(layer, class_token + sum(added) / len(frames)), new
