"""Planted objects: one small patch decides on the class of an image, among others that look like it but say nothing.

    python tests/analysis/planted.py [VARIANT ...]

trains a small ViT of each attention variant, and prints how often its relevance is highest on the object, and how its
maps of the class token divide between the object and the distractors.
"""

import sys
import time

import torch

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.analysis import attention_maps, attention_relevance, attention_rollout


CLASSES, DISTRACTOR_KINDS, DISTRACTORS = 4, 8, 5
CELLS, PATCH = 5, 4
SIZE = CELLS * PATCH
NOISE = 0.3


def planted_images(count, seed):
    """Images on a grid of patches: noise, one object, and distractors, all of them random patterns.

    The patterns are the same for every seed; each of them stands anywhere.

    Returns:
        Images (count, 3, SIZE, SIZE), classes (count), the patch of each object (count), and whether there is a
        distractor (count, patches).
    """
    patterns = torch.randn(CLASSES + DISTRACTOR_KINDS, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1000 + seed)
    patches = NOISE * torch.randn(count, CELLS**2, 3, PATCH, PATCH, generator=random)
    classes = torch.randint(CLASSES, (count,), generator=random)
    order = torch.rand(count, CELLS**2, generator=random).argsort(dim=1)
    rows = torch.arange(count)
    objects = order[:, 0]
    patches[rows, objects] += patterns[classes]
    distracts = torch.zeros(count, CELLS**2, dtype=torch.bool)
    for number in range(1, 1 + DISTRACTORS):
        kinds = CLASSES + torch.randint(DISTRACTOR_KINDS, (count,), generator=random)
        patches[rows, order[:, number]] += patterns[kinds]
        distracts[rows, order[:, number]] = True
    images = patches.unflatten(1, (CELLS, CELLS)).permute(0, 3, 1, 4, 2, 5).reshape(count, 3, SIZE, SIZE)
    return images, classes, objects, distracts


def train(variant, seed=0, steps=400, layers=2):
    """A small ViT that knows the classes."""
    torch.manual_seed(seed)
    config = DnAViTConfig(
        attention_variant=variant,
        image_size=SIZE,
        patch_size=PATCH,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_labels=CLASSES,
        drop_path_rate=0.0,
    )
    model = DnAViTForImageClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        images, classes, _, _ = planted_images(128, 1 + step + 100_000 * seed)
        optimizer.zero_grad()
        model(images, labels=classes).loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def look(model, count=400):
    """Accuracy on unseen images, and where relevance, rollout and maps lie."""
    images, classes, objects, distracts = planted_images(count, seed=0)
    with torch.no_grad():
        accuracy = (model(images).logits.argmax(1) == classes).float().mean().item()
    found = {"accuracy": accuracy}

    def share_on_top(heats, name):
        tops = torch.stack([heat.value(name).flatten() for heat in heats]).argmax(1)
        return (tops == objects).float().mean().item()

    inputs = {"pixel_values": images}
    relevance = attention_relevance(model, inputs)
    found["relevance on top"] = share_on_top(relevance, "combined")
    found["rollout on top"] = share_on_top(attention_rollout(model, inputs), "combined")
    heats = [maps.heat() for maps in attention_maps(model, inputs, layers=[-1])]
    for name in heats[0].branches():
        weights = torch.stack([heat.value(name).flatten() for heat in heats]) / heats[0].uniform
        found[f"{name}: object"] = weights[torch.arange(count), objects].mean().item()
        found[f"{name}: distractor"] = weights[distracts].mean().item()
        others = ~distracts
        others[torch.arange(count), objects] = False
        found[f"{name}: background"] = weights[others].mean().item()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    for variant in sys.argv[1:] or ["softmax", "differential", "dna"]:
        start = time.perf_counter()
        figures = look(train(variant))
        print(f"{variant} ({time.perf_counter() - start:.0f} s)")
        for name, value in figures.items():
            print(f"  {name:24s} {value:.3f}")
