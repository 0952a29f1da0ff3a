"""What the tensors of an authors' model compute, written from the equations, as a check on conversion.

Deliberately without the package's models, and with the row orders written out a second time: a mistake in the one
place does not hide in the other.
"""

from collections.abc import Iterator

import torch

from .errors import ConversionError


def agreement(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> float:
    """Largest difference between what a converted model and its source compute.

    Raises:
        ConversionError: if it is above `tolerance`, relative to the largest value where that is above 1.
    """
    difference = (found - expected).abs().max().item()
    if not difference <= tolerance * max(1.0, expected.abs().max().item()):
        raise ConversionError(
            f"the converted model differs by {difference:.1e} from the tensors it was made from: this is a defect of "
            "dna-hf, please report it with the names and shapes of your tensors."
        )
    return difference


def evaluate_authors_vit(
    tensors: dict[str, torch.Tensor], pixel_values: torch.Tensor, num_heads: int, negative_sign: int = 1
) -> torch.Tensor:
    """Evaluate a state dict in the authors' names, in any of their layouts, in float64.

    Args:
        tensors: the state dict.
        pixel_values: (batch, channels, height, width).
        num_heads: number of attention heads.
        negative_sign: +1 if the program adds the negative branch, -1 if it subtracts it.

    Returns:
        The logits (batch, classes), or the normalised class token (batch, width) where there is no head.
    """
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    tokens = _patches(weights, pixel_values.double()) + weights["pos_embed"]
    tokens = torch.cat((weights["cls_token"].expand(len(tokens), -1, -1), tokens), dim=1)
    for block in _blocks(weights):
        tokens = tokens + _attention(block, "attn", _norm(tokens, block, "norm1"), num_heads, negative_sign)
        tokens = tokens + _mlp(block, tokens)
    return _head(weights, tokens[:, 0])


def evaluate_authors_timesformer(
    tensors: dict[str, torch.Tensor],
    video: torch.Tensor,
    num_heads: int,
    attention_type: str,
    negative_sign: int = 1,
) -> torch.Tensor:
    """Evaluate a TimeSformer's state dict in the authors' names, in any of their layouts, in float64.

    The patches are kept as (batch, frames, patches, width) throughout, beside the class token (batch, 1, width).

    Args:
        tensors: the state dict.
        video: (batch, channels, frames, height, width).
        num_heads: number of attention heads.
        attention_type: `"divided_space_time"`, `"joint_space_time"` or `"space_only"`.
        negative_sign: +1 if the program adds the negative branch, -1 if it subtracts it.

    Returns:
        The logits (batch, classes), or the normalised class token (batch, width) where there is no head.
    """
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    positions, frames = weights["pos_embed"], video.double().unbind(dim=2)
    patches = torch.stack([_patches(weights, frame) + positions[:, 1:] for frame in frames], dim=1)
    token = (weights["cls_token"] + positions[:, :1]).expand(len(video), 1, -1)
    if attention_type == "space_only":
        # every frame is an image, and the mean of their class tokens is what counts
        token = token.repeat(len(frames), 1, 1)
        tokens = torch.cat((token, patches.transpose(0, 1).flatten(0, 1)), dim=1)
        for block in _blocks(weights):
            tokens = tokens + _attention(block, "attn", _norm(tokens, block, "norm1"), num_heads, negative_sign)
            tokens = tokens + _mlp(block, tokens)
        return _head(weights, tokens[:, 0].reshape(len(frames), len(video), -1).mean(dim=0))
    patches = patches + weights["time_embed"].unsqueeze(2)
    for block in _blocks(weights):
        if attention_type == "divided_space_time":
            patches = patches + _over_time(block, patches, num_heads, negative_sign)
            change, changes = _over_space(block, token, patches, num_heads, negative_sign)
        else:
            sequence = _norm(torch.cat((token, patches.flatten(1, 2)), dim=1), block, "norm1")
            attended = _attention(block, "attn", sequence, num_heads, negative_sign)
            change, changes = attended[:, :1], attended[:, 1:].reshape(patches.shape)
        token, patches = token + change, patches + changes
        token, patches = token + _mlp(block, token), patches + _mlp(block, patches)
    return _head(weights, token[:, 0])


def evaluate_authors_viscop(
    tensors: dict[str, torch.Tensor],
    pixel_values: torch.Tensor,
    grid: tuple[int, int, int],
    num_heads: int,
    interaction_layers: list[int],
    negative_sign: int = -1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Evaluate the vision encoder of VisCoP in the authors' names, in float64, on one visual with merge size 2.

    Args:
        tensors: the state dict.
        pixel_values: (patches, channels * patch size * patch size), in blocks of 2 x 2 patches.
        grid: frames, rows and columns of the visual, in patches.
        num_heads: number of attention heads.
        interaction_layers: layers that the interaction modules read, in order.
        negative_sign: +1 if the program adds the negative branch, -1 if it subtracts it.

    Returns:
        The features (patches / 4, width) and the probes (probes, width).
    """
    weights = _Doubles(tensors)
    frames, rows, columns = grid
    kernel = weights["embeddings.patch_embedding.weight"].flatten(1)
    tokens = pixel_values.double() @ kernel.T + weights["embeddings.patch_embedding.bias"]
    tokens = tokens.unflatten(0, (frames, rows * columns))
    encoder = _Viscop(weights, num_heads, _viscop_angles(rows, columns, tokens.shape[-1] // num_heads // 2))
    probes = weights["encoder.visual_probes"][0]
    index = 0
    while f"encoder.layers.{index}.layer_norm1.weight" in weights:
        tokens = encoder.layer(f"encoder.layers.{index}", tokens)
        if index in interaction_layers:
            module = f"encoder.interaction_modules.{interaction_layers.index(index)}"
            probes = encoder.module(module, probes, tokens.flatten(0, 1), negative_sign)
        index += 1
    # the four patches of a block follow each other
    features = _norm(tokens.flatten(0, 1), weights, "post_layernorm").unflatten(0, (-1, 4)).mean(dim=1)
    return features, probes


def _viscop_angles(rows: int, columns: int, axis: int) -> torch.Tensor:
    """Angles (rows * columns, 2 * axis) of the rotary embedding, in the order of the patches of a frame."""
    places = torch.tensor(
        [
            (row + down, column + right)
            for row in range(0, rows, 2)
            for column in range(0, columns, 2)
            for down in range(2)
            for right in range(2)
        ],
        dtype=torch.float64,
    )
    frequencies = 10000.0 ** -(torch.arange(0, axis, 2, dtype=torch.float64) / axis)
    return (places[:, :, None] * frequencies).flatten(1).repeat(1, 2)


class _Viscop:
    """The layers and interaction modules of VisCoP's encoder, in float64."""

    def __init__(self, weights: "_Doubles", num_heads: int, angles: torch.Tensor) -> None:
        self.weights = weights
        self.num_heads = num_heads
        self.angles = angles

    def layer(self, layer: str, tokens: torch.Tensor) -> torch.Tensor:
        """A layer of the encoder on tokens (frames, patches, width)."""
        normed = _norm(tokens, self.weights, f"{layer}.layer_norm1")
        query, key, value = (self._heads(f"{layer}.self_attn.{name}_proj", normed) for name in "qkv")
        attended = _attend(self._rotate(query), self._rotate(key), value)
        tokens = tokens + self._linear(f"{layer}.self_attn.out_proj", _joined(attended))
        hidden = self._linear(f"{layer}.mlp.fc1", _norm(tokens, self.weights, f"{layer}.layer_norm2"))
        hidden = hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3))) / 2
        return tokens + self._linear(f"{layer}.mlp.fc2", hidden)

    def module(self, module: str, probes: torch.Tensor, read: torch.Tensor, negative_sign: int) -> torch.Tensor:
        """What the probes (probes, width) become by reading tokens (tokens, width)."""
        key = self._heads(f"{module}.k_proj", read)
        if f"{module}.neg_scalers" in self.weights:
            query, query_negative = (self._heads(f"{module}.q_{sign}_proj", probes) for sign in ("pos", "neg"))
            value, value_negative = (self._heads(f"{module}.v_{sign}_proj", read) for sign in ("pos", "neg"))
            alpha = negative_sign * self.weights[f"{module}.neg_scalers"][:, None, None]
            output = _attend(query, key, value) + alpha * _attend(-query_negative, key, value_negative)
        else:
            output = _attend(self._heads(f"{module}.q_proj", probes), key, self._heads(f"{module}.v_proj", read))
        return self._linear(f"{module}.out_proj", _joined(output))

    def _linear(self, name: str, states: torch.Tensor) -> torch.Tensor:
        return states @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def _heads(self, name: str, states: torch.Tensor) -> torch.Tensor:
        return self._linear(name, states).unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def _rotate(self, states: torch.Tensor) -> torch.Tensor:
        first, second = states.chunk(2, dim=-1)
        return states * self.angles.cos() + torch.cat((-second, first), dim=-1) * self.angles.sin()


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return torch.softmax(query @ key.mT / key.shape[-1] ** 0.5, dim=-1) @ value


def _joined(states: torch.Tensor) -> torch.Tensor:
    return states.transpose(-3, -2).flatten(-2)


class _Doubles(dict[str, torch.Tensor]):
    """Tensors that are made float64 where they are used: an encoder is large."""

    def __getitem__(self, name: str) -> torch.Tensor:
        return super().__getitem__(name).double()


def _over_time(
    block: dict[str, torch.Tensor], patches: torch.Tensor, num_heads: int, negative_sign: int
) -> torch.Tensor:
    """What attention over time adds: every patch attends to itself in all frames; the class token has no part."""
    changes = []
    for series in patches.unbind(dim=2):
        attended = _attention(block, "temporal_attn", _norm(series, block, "temporal_norm1"), num_heads, negative_sign)
        changes.append(attended @ block["temporal_fc.weight"].T + block["temporal_fc.bias"])
    return torch.stack(changes, dim=2)


def _over_space(
    block: dict[str, torch.Tensor], token: torch.Tensor, patches: torch.Tensor, num_heads: int, negative_sign: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """What attention within every frame adds to the class token, on the average of the frames, and to the patches."""
    changes = []
    for frame in patches.unbind(dim=1):
        sequence = _norm(torch.cat((token, frame), dim=1), block, "norm1")
        changes.append(_attention(block, "attn", sequence, num_heads, negative_sign))
    stacked = torch.stack(changes, dim=1)
    return stacked[:, :, 0].mean(dim=1, keepdim=True), stacked[:, :, 1:]


def _patches(weights: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Patches (batch, patches, width) of images (batch, channels, height, width), row by row."""
    projection = weights["patch_embed.proj.weight"]
    patch = projection.shape[-1]
    patches = torch.nn.functional.unfold(images, patch, stride=patch).transpose(1, 2)
    return patches @ projection.flatten(1).T + weights["patch_embed.proj.bias"]


def _blocks(weights: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    index = 0
    while f"blocks.{index}.norm1.weight" in weights:
        prefix = f"blocks.{index}."
        yield {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        index += 1


def _mlp(block: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    hidden = _norm(x, block, "norm2") @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"]
    hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
    return hidden @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]


def _head(weights: dict[str, torch.Tensor], token: torch.Tensor) -> torch.Tensor:
    feature = _norm(token, weights, "norm")
    return feature @ weights["head.weight"].T + weights["head.bias"] if "head.weight" in weights else feature


def _attention(
    block: dict[str, torch.Tensor], module: str, x: torch.Tensor, num_heads: int, negative_sign: int
) -> torch.Tensor:
    """The attention of a module, `attn` or `temporal_attn`, on (batch, tokens, width)."""
    block = {name.removeprefix(f"{module}."): value for name, value in block.items() if name.startswith(f"{module}.")}
    width = x.shape[-1]
    head_dim = width // num_heads

    def heads(name: str, slot: int) -> torch.Tensor:
        """Rows `slot * width` and on of a packed projection, applied and split: (batch, heads, tokens, head_dim)."""
        rows = slice(slot * width, (slot + 1) * width)
        states = x @ block[f"{name}.weight"][rows].T
        if f"{name}.bias" in block:
            states = states + block[f"{name}.bias"][rows]
        return states.reshape(*states.shape[:2], num_heads, head_dim).transpose(1, 2)

    query_negative: torch.Tensor | None = None
    value_negative: torch.Tensor | None = None
    if "qqkvv.weight" in block:
        query, query_negative, key, value, value_negative = (heads("qqkvv", slot) for slot in range(5))
    elif "qqkv.weight" in block:
        query, query_negative, key, value = (heads("qqkv", slot) for slot in range(4))
        value_negative = value
    else:
        query, key, value = (heads("qkv", slot) for slot in range(3))
        if "q_neg.weight" in block:
            query_negative = heads("q_neg", 0)
            value_negative = heads("v_neg", 0) if "v_neg.weight" in block else value
    output = torch.softmax(query @ key.mT / head_dim**0.5, dim=-1) @ value
    if query_negative is not None and value_negative is not None:
        softmin = torch.softmax(-(query_negative @ key.mT) / head_dim**0.5, dim=-1)
        alpha = block["neg_scalers"].reshape(1, num_heads, 1, 1)
        output = output + negative_sign * alpha * (softmin @ value_negative)
    output = output.transpose(1, 2).reshape(x.shape)
    return output @ block["proj.weight"].T + block["proj.bias"]


def _norm(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]
