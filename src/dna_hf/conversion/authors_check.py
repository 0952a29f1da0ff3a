"""What the tensors of an authors' model compute, written from the equations, as a check on conversion.

Deliberately without the package's models, and with the row orders written out a second time: a mistake in the one
place does not hide in the other.
"""

from collections.abc import Iterator

import torch


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
