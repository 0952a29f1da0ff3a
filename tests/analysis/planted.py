"""Planted objects: one small patch decides on the class of an image, among others that look like it but say nothing.

A class of its own has no object, so that every object has to speak for its class: else one of the classes could be
what is left when nothing speaks for the others.

    python tests/analysis/planted.py

trains small ViTs of three attention variants with three seeds each, and prints how often relevance is highest on the
object and how the class token's maps divide between object and distractors.
"""

import time

import torch

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.analysis import attention_relevance, attention_rollout, visual_maps


# the last class is that of images without an object
OBJECT_KINDS, DISTRACTOR_KINDS, DISTRACTORS = 4, 8, 5
CLASSES = OBJECT_KINDS + 1
CELLS, PATCH = 5, 4
SIZE = CELLS * PATCH
# standard deviation; that of a pattern is 1. With little noise and without dropout of weights, the class token attends
# to nothing but the object, and more attention to it changes no logit: gradients, and so relevance, then say little
NOISE = 1.0
DROPOUT = 0.2


def planted_images(count, seed):
    """Images on a grid of patches: noise, one object, and distractors, all of them random patterns.

    The patterns are the same for every seed; each of them stands anywhere.

    Returns:
        Images (count, 3, SIZE, SIZE), classes (count), the patch of each object (count), which says nothing where
        there is none, and whether there is a distractor (count, patches).
    """
    patterns = torch.randn(
        OBJECT_KINDS + DISTRACTOR_KINDS, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0)
    )
    random = torch.Generator().manual_seed(1000 + seed)
    patches = NOISE * torch.randn(count, CELLS**2, 3, PATCH, PATCH, generator=random)
    classes = torch.randint(CLASSES, (count,), generator=random)
    order = torch.rand(count, CELLS**2, generator=random).argsort(dim=1)
    rows = torch.arange(count)
    objects = order[:, 0]
    planted = classes < OBJECT_KINDS
    patches[rows[planted], objects[planted]] += patterns[classes[planted]]
    distracts = torch.zeros(count, CELLS**2, dtype=torch.bool)
    for number in range(1, 1 + DISTRACTORS):
        kinds = OBJECT_KINDS + torch.randint(DISTRACTOR_KINDS, (count,), generator=random)
        patches[rows, order[:, number]] += patterns[kinds]
        distracts[rows, order[:, number]] = True
    images = patches.unflatten(1, (CELLS, CELLS)).permute(0, 3, 1, 4, 2, 5).reshape(count, 3, SIZE, SIZE)
    return images, classes, objects, distracts


def train(variant, seed=0, enough=0.97, most_steps=1500, layers=2):
    """A small ViT that knows the classes of `enough` validation images; training goes no further."""
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
        attention_probs_dropout_prob=DROPOUT,
    )
    model = DnAViTForImageClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=50)
    validation, known, _, _ = planted_images(500, seed=-1)
    for step in range(most_steps):
        images, classes, _, _ = planted_images(64, 1 + step + 100_000 * seed)
        optimizer.zero_grad()
        model(images, labels=classes).loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            with torch.no_grad():
                right = model.eval()(validation).logits.argmax(1) == known
            if right.float().mean() >= enough:
                break
            model.train()
    return model.eval()


def look(model, count=400):
    """Accuracy on unseen images, and where relevance, rollout and maps lie."""
    images, classes, objects, distracts = planted_images(count, seed=0)
    with torch.no_grad():
        accuracy = (model(images).logits.argmax(1) == classes).float().mean().item()
    found = {"accuracy": accuracy}
    # where there is something to look at
    planted = classes < OBJECT_KINDS
    images, objects, distracts = images[planted], objects[planted], distracts[planted]
    count = len(images)

    def share_on_top(heats, name):
        tops = torch.stack([heat.value(name).flatten() for heat in heats]).argmax(1)
        return (tops == objects).float().mean().item()

    inputs = {"pixel_values": images}
    relevance = attention_relevance(model, inputs)
    found["relevance on top"] = share_on_top(relevance, "combined")
    found["rollout on top"] = share_on_top(attention_rollout(model, inputs), "combined")
    heats = [maps.heat() for maps in visual_maps(model, inputs, layers=[-1])]
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
    for variant in ("dna", "softmax", "differential"):
        for seed in range(3):
            start = time.perf_counter()
            figures = look(train(variant, seed))
            print(f"{variant}, seed {seed} ({time.perf_counter() - start:.0f} s)")
            print("  " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()), flush=True)
