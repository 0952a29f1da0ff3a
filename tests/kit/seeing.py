"""Models that look at what is bright: their positive maps seek it, their negative maps shun it."""

import torch
from torch import nn

from dna_hf.models.attention_variants import VariantAttention


def seek_brightness(model, sharpness=5.0):
    """Set all weights so that every query attends to bright patches, in every layer and head.

    The first channel of a token is the sum of its patch; no layer changes a token.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.fill_(1.0)
            elif isinstance(module, nn.Conv2d):
                module.weight[0].fill_(1.0)
            elif isinstance(module, VariantAttention):
                first = torch.arange(module.num_heads) * module.head_dim
                module.k_proj.weight[first, 0] = 1.0
                for projection in (module.q_pos_proj, module.q_neg_proj):
                    projection.bias[first] = sharpness
    return model.eval()


def bright_patches(places, rows, columns, size=4):
    """A dark video (frames, 3, height, width) with one bright patch (row, column) in each frame, or `None`."""
    frames = torch.zeros(len(places), 3, rows * size, columns * size)
    for frame, place in zip(frames, places, strict=True):
        if place is not None:
            row, column = place
            frame[:, row * size : (row + 1) * size, column * size : (column + 1) * size] = 1.0
    return frames


def merged_patches(frames, merge, size=4):
    """The patches of a video one by one, (patches, 3 * size * size), in the order of the video language model."""
    _, _, height, width = frames.shape
    patches = []
    for frame in frames:
        for block_row in range(height // size // merge):
            for block_column in range(width // size // merge):
                for row in range(merge):
                    for column in range(merge):
                        top, left = (block_row * merge + row) * size, (block_column * merge + column) * size
                        patches.append(frame[:, top : top + size, left : left + size].flatten())
    return torch.stack(patches)
