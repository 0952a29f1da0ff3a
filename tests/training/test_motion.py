"""What attention over time is for: telling clips apart that show the same frames in different orders."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dna_hf import DnATimesformerForVideoClassification
from dna_hf.conversion import from_image_model
from dna_hf.data.motion import NUM_POSITIONS, STEPS, motion_splits
from dna_hf.models import DnAViTConfig, DnAViTModel


DIRECTIONS = {STEPS.index(1): 0, STEPS.index(-1): 1}


def clips(split, images):
    """Clips one step clockwise and counterclockwise, all of which begin at the top: the task at a small size."""
    chosen = [clip for clip in motion_splits()[split].clips[: 8 * images] if clip.label in DIRECTIONS]
    frames = np.stack([replace(clip, position=0).render() for clip in chosen])
    pixels = torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float() / 127.5
    return pixels, torch.tensor([DIRECTIONS[clip.label] for clip in chosen])


def converted(variant, attention_type):
    """A video model made of an image model, with a head of its own."""
    torch.manual_seed(0)
    image = DnAViTModel(
        DnAViTConfig(
            **{"attention_variant": variant, "image_size": 32, "patch_size": 16, "hidden_size": 32},
            **{"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "initializer_range": 0.1},
        )
    )
    encoder = from_image_model(image, num_frames=NUM_POSITIONS, attention_type=attention_type).model
    encoder.config.num_labels = 2
    model = DnATimesformerForVideoClassification(encoder.config)
    model.dna_timesformer.load_state_dict(encoder.state_dict())
    return model


def train(model, pixels, labels, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        rows = torch.randperm(len(labels), generator=generator)[:32]
        loss = model(pixel_values=pixels[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@torch.no_grad()
def logits(model, pixels):
    return model.eval()(pixel_values=pixels).logits


def accuracy(model, pixels, labels):
    return (logits(model, pixels).argmax(-1) == labels).double().mean().item()


@pytest.mark.parametrize("variant", ["softmax", "dna"])
def test_a_converted_image_model_learns_that_order_matters(variant):
    pixels, labels = clips("test", 25)
    model = converted(variant, "divided_space_time")
    assert torch.allclose(logits(model, pixels), logits(model, pixels.flip(1)), atol=1e-5)

    train(model.train(), *clips("train", 100), steps=100)
    assert accuracy(model, pixels, labels) >= 0.95
    # backwards, a clip is one of the other class
    assert accuracy(model, pixels.flip(1), labels) <= 0.05


@pytest.mark.parametrize("variant", ["softmax", "dna"])
def test_frames_without_their_order_tell_nothing(variant):
    model = converted(variant, "space_only")
    train(model.train(), *clips("train", 100), steps=20)
    pixels, labels = clips("test", 25)
    one, other = logits(model, pixels[labels == 0]), logits(model, pixels[labels == 1])
    assert torch.allclose(one, other, atol=1e-5)
    assert accuracy(model, pixels, labels) == pytest.approx(0.5)
