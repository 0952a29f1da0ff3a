"""What the tensors of an authors' ViT compute, written from the equations, as a check on conversion.

Deliberately without the package's models, and with the row orders written out a second time: a mistake in the one
place does not hide in the other.
"""

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
    projection = weights["patch_embed.proj.weight"]
    patch = projection.shape[-1]
    patches = torch.nn.functional.unfold(pixel_values.double(), patch, stride=patch).transpose(1, 2)
    tokens = patches @ projection.flatten(1).T + weights["patch_embed.proj.bias"] + weights["pos_embed"]
    tokens = torch.cat((weights["cls_token"].expand(len(tokens), -1, -1), tokens), dim=1)
    index = 0
    while f"blocks.{index}.norm1.weight" in weights:
        prefix = f"blocks.{index}."
        block = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        tokens = tokens + _attention(block, _norm(tokens, block, "norm1"), num_heads, negative_sign)
        hidden = _norm(tokens, block, "norm2") @ block["mlp.fc1.weight"].T + block["mlp.fc1.bias"]
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        tokens = tokens + hidden @ block["mlp.fc2.weight"].T + block["mlp.fc2.bias"]
        index += 1
    feature = _norm(tokens, weights, "norm")[:, 0]
    return feature @ weights["head.weight"].T + weights["head.bias"] if "head.weight" in weights else feature


def _attention(block: dict[str, torch.Tensor], x: torch.Tensor, num_heads: int, negative_sign: int) -> torch.Tensor:
    width = x.shape[-1]
    head_dim = width // num_heads

    def heads(name: str, slot: int) -> torch.Tensor:
        """Rows `slot * width` and on of a packed projection, applied and split: (batch, heads, tokens, head_dim)."""
        rows = slice(slot * width, (slot + 1) * width)
        states = x @ block[f"attn.{name}.weight"][rows].T
        if f"attn.{name}.bias" in block:
            states = states + block[f"attn.{name}.bias"][rows]
        return states.reshape(*states.shape[:2], num_heads, head_dim).transpose(1, 2)

    query_negative: torch.Tensor | None = None
    value_negative: torch.Tensor | None = None
    if "attn.qqkvv.weight" in block:
        query, query_negative, key, value, value_negative = (heads("qqkvv", slot) for slot in range(5))
    elif "attn.qqkv.weight" in block:
        query, query_negative, key, value = (heads("qqkv", slot) for slot in range(4))
        value_negative = value
    else:
        query, key, value = (heads("qkv", slot) for slot in range(3))
        if "attn.q_neg.weight" in block:
            query_negative = heads("q_neg", 0)
            value_negative = heads("v_neg", 0) if "attn.v_neg.weight" in block else value
    output = torch.softmax(query @ key.mT / head_dim**0.5, dim=-1) @ value
    if query_negative is not None and value_negative is not None:
        softmin = torch.softmax(-(query_negative @ key.mT) / head_dim**0.5, dim=-1)
        alpha = block["attn.neg_scalers"].reshape(1, num_heads, 1, 1)
        output = output + negative_sign * alpha * (softmin @ value_negative)
    output = output.transpose(1, 2).reshape(x.shape)
    return output @ block["attn.proj.weight"].T + block["attn.proj.bias"]


def _norm(x: torch.Tensor, weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    deviation = (centred.pow(2).mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return centred / deviation * weights[f"{name}.weight"] + weights[f"{name}.bias"]
