"""Rollout and relevance against the matrices of the sources, multiplied in full."""

import pytest
import torch

from dna_hf import DnATimesformerModel
from dna_hf.analysis import AnalysisError, attention_relevance, attention_rollout
from dna_hf.models.attention_variants import ATTENTION_VARIANTS
from tests.analysis.test_maps import COLUMNS, PATH, ROWS, batch_of_visuals, eager, probes
from tests.kit.models import FRAMES, LAYERS, images, tiny_timesformer, tiny_vit, videos
from tests.kit.seeing import bright_patches, merged_patches, seek_brightness


PATCHES = ROWS * COLUMNS
BRANCHES = {"positive": "", "negative": "negative_"}
TYPES = ["divided_space_time", "joint_space_time", "space_only"]


def close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=atol)


def token(frame, row, column):
    """Where a patch is in the order of these tests: the class token, then by frame, row and column."""
    return 1 + (frame * ROWS + row) * COLUMNS + column


PLACES = [(f, r, c) for f in range(FRAMES) for r in range(ROWS) for c in range(COLUMNS)]


def space_matrix(maps, share):
    """The map over all tokens of a video, of the maps (frames, 1 + patches, 1 + patches) of its frames."""
    matrix = torch.zeros(1 + len(PLACES), 1 + len(PLACES))
    for f, r, c in PLACES:
        own = 1 + r * COLUMNS + c
        matrix[0, token(f, r, c)] += share * maps[f, 0, own]
        matrix[token(f, r, c), 0] += maps[f, own, 0]
        for f2, r2, c2 in PLACES:
            if f2 == f:
                matrix[token(f, r, c), token(f, r2, c2)] = maps[f, own, 1 + r2 * COLUMNS + c2]
    matrix[0, 0] = share * maps[:, 0, 0].sum()
    return matrix


def time_matrix(maps):
    """The same of the maps (patches, frames, frames) over time, in which the class token takes no part."""
    matrix = torch.zeros(1 + len(PLACES), 1 + len(PLACES))
    for f, r, c in PLACES:
        for f2 in range(FRAMES):
            matrix[token(f, r, c), token(f2, r, c)] = maps[r * COLUMNS + c, f, f2]
    return matrix


def joint_matrix(weights):
    """The same of one map over all tokens, which counts the frames fastest."""
    order = torch.tensor([0] + [1 + (r * COLUMNS + c) * FRAMES + f for f, r, c in PLACES])
    return weights[order][:, order]


@pytest.mark.parametrize("variant", ["dna", "softmax", "differential", "cog"])
def test_rollout_of_images(variant):
    model = tiny_vit(variant)
    found = attention_rollout(model, {"pixel_values": images(2)}, query=(1, 2))
    expected = eager(model, pixel_values=images(2))
    assert [heat.visual for heat in found] == [0, 1]
    assert found[0].variant == variant and found[0].uniform == 1 / 10
    for heat in found:
        rows = {}
        for branch, sign in BRANCHES.items():
            row = torch.eye(10)[1 + 1 * COLUMNS + 2]
            maps = getattr(expected, f"{sign}attentions") or [None] * LAYERS
            for layer in reversed(range(LAYERS)):
                weights = maps[layer]
                if variant == "cog":
                    signed = expected.attentions[layer]
                    weights = signed.clamp(min=0) if branch == "positive" else (-signed).clamp(min=0)
                if weights is not None:
                    row = 0.5 * row + 0.5 * row @ weights[heat.visual].mean(0)
            rows[branch] = row[1:].reshape(1, ROWS, COLUMNS)
        close(heat.value("positive"), rows["positive"])
        if variant == "softmax":
            close(heat.value("difference"), rows["positive"])
            close(heat.value("combined"), rows["positive"])
            with pytest.raises(AnalysisError, match="softmax attention has no negative map: choose positive"):
                heat.value("negative")
        else:
            close(heat.value("negative"), rows["negative"])
            close(heat.value("difference"), rows["positive"] - rows["negative"])


def test_combined_rollout_weighs_by_alpha():
    model = tiny_vit()
    (heat,) = attention_rollout(model, {"pixel_values": images(1)})
    expected = eager(model, pixel_values=images(1))
    row = torch.eye(10)[0]
    for layer in (1, 0):
        alpha = model.dna_vit.layers[layer].attention.negative_scale.detach()[:, None, None]
        weights = (expected.attentions[layer] + alpha * expected.negative_attentions[layer])[0].abs().mean(0)
        row = 0.5 * row + 0.5 * row @ (weights / weights.sum(-1, keepdim=True))
    close(heat.value("combined"), row[1:].reshape(1, ROWS, COLUMNS))


@pytest.mark.parametrize("attention_type", TYPES)
def test_rollout_of_videos(attention_type):
    model = tiny_timesformer(attention_type=attention_type)
    found = attention_rollout(model, {"pixel_values": videos(2)})
    expected = eager(model, pixel_values=videos(2))
    for heat in found:
        for branch, sign in BRANCHES.items():
            own = slice(heat.visual * FRAMES, (heat.visual + 1) * FRAMES)
            space = [maps.mean(1) for maps in getattr(expected, f"{sign}attentions")]
            if attention_type == "space_only":
                row = torch.eye(1 + PATCHES)[0].expand(FRAMES, 1, -1) / FRAMES
                for layer in reversed(range(LAYERS)):
                    row = 0.5 * row + 0.5 * row @ space[layer][own]
                row = row[:, 0, 1:].flatten()
            else:
                row = torch.eye(1 + len(PLACES))[0]
                for layer in reversed(range(LAYERS)):
                    if attention_type == "joint_space_time":
                        row = 0.5 * row + 0.5 * row @ joint_matrix(space[layer][heat.visual])
                        continue
                    row = 0.5 * row + 0.5 * row @ space_matrix(space[layer][own], 1 / FRAMES)
                    places = slice(heat.visual * PATCHES, (heat.visual + 1) * PATCHES)
                    time = time_matrix(getattr(expected, f"{sign}temporal_attentions")[layer].mean(1)[places])
                    time[0, 0] = 1
                    row = 0.5 * row + 0.5 * row @ time
                close(row.sum(), torch.tensor(1.0))
                row = row[1:]
            close(heat.value(branch).flatten(), row)


def test_rollout_of_a_patch_of_all_frames():
    (heat,) = attention_rollout(tiny_timesformer(), {"pixel_values": videos(1)}, query=(2, 1))
    values = heat.value("positive")
    # half a layer's row stays where it is
    assert values.sum() < 1 and (values.flatten(1).argmax(1) == 2 * COLUMNS + 1).all()


def with_gradients(model, target, **inputs):
    """Maps and their gradients as torch has them when they are retained, by name."""
    model.set_attn_implementation("eager")
    outputs = model(**inputs, output_attentions=True)
    names = [name for name in outputs if name.endswith("attentions") and getattr(outputs, name)]
    for name in names:
        for weights in getattr(outputs, name):
            weights.retain_grad()
    logits = outputs.logits
    chosen = logits.argmax(1) if target is None else torch.tensor(target).expand(len(logits))
    logits[torch.arange(len(logits)), chosen].sum().backward()
    return {name: [(maps.detach(), maps.grad) for maps in getattr(outputs, name)] for name in names}


def product(weights, gradient):
    return (weights * gradient).clamp(min=0).mean(1)


@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_relevance_of_images(variant):
    model = tiny_vit(variant)
    found = attention_relevance(model, {"pixel_values": images(2)}, target=1)
    assert model.config._attn_implementation == "sdpa"
    assert all(parameter.grad is None for parameter in model.parameters())
    maps = with_gradients(model, 1, pixel_values=images(2))
    for heat in found:
        layers = {"positive": [], "negative": []}
        for weights, gradient in maps["attentions"]:
            weighted = (weights * gradient).clamp(min=0)
            cog = variant == "cog" and (weights < 0).any()
            layers["positive"].append((weighted * (weights > 0) if cog else weighted).mean(1)[heat.visual])
            if variant == "cog":
                layers["negative"].append((weighted * (weights < 0)).mean(1)[heat.visual])
        for entry in maps.get("negative_attentions", []):
            layers["negative"].append(product(*entry)[heat.visual])
        layers["combined"] = layers["positive"]
        if layers["negative"]:
            layers["combined"] = [a + b for a, b in zip(layers["positive"], layers["negative"], strict=True)]
        for branch, weighted in layers.items():
            if not weighted:
                assert branch not in heat.values
                continue
            total = torch.eye(10)
            for weights in weighted:
                total = total + weights @ total
            close(heat.value(branch), total[0, 1:].reshape(1, ROWS, COLUMNS))
            assert heat.value(branch).max() > 1e-3


@pytest.mark.parametrize("pooling", ["cls_mean", "cls_dist"])
def test_relevance_begins_with_what_the_classifier_reads(pooling):
    model = tiny_vit(classifier_pooling=pooling, use_distillation_token=pooling == "cls_dist")
    (heat,) = attention_relevance(model, {"pixel_values": images(1)})
    maps = with_gradients(model, None, pixel_values=images(1))
    tokens = model.config.num_prefix_tokens + PATCHES
    total = torch.eye(tokens)
    for entry in maps["attentions"]:
        total = total + product(*entry)[0] @ total
    read = total[0] + total[1] if pooling == "cls_dist" else total[0] + (total[1:] - torch.eye(tokens)[1:]).mean(0)
    close(heat.value("positive"), read[-PATCHES:].reshape(1, ROWS, COLUMNS))


@pytest.mark.parametrize("attention_type", TYPES)
def test_relevance_of_videos(attention_type):
    model = tiny_timesformer(attention_type=attention_type)
    found = attention_relevance(model, {"pixel_values": videos(2)})
    maps = with_gradients(model, None, pixel_values=videos(2))
    for heat in found:
        for branch, sign in BRANCHES.items():
            own = slice(heat.visual * FRAMES, (heat.visual + 1) * FRAMES)
            space = [product(*entry) for entry in maps[f"{sign}attentions"]]
            if attention_type == "space_only":
                total = torch.eye(1 + PATCHES).expand(FRAMES, -1, -1)
                for layer in range(LAYERS):
                    total = total + space[layer][own] @ total
                row = total[:, 0, 1:].flatten()
            else:
                total = torch.eye(1 + len(PLACES))
                for layer in range(LAYERS):
                    if attention_type == "joint_space_time":
                        total = total + joint_matrix(space[layer][heat.visual]) @ total
                        continue
                    places = slice(heat.visual * PATCHES, (heat.visual + 1) * PATCHES)
                    total = total + time_matrix(product(*maps[f"{sign}temporal_attentions"][layer])[places]) @ total
                    total = total + space_matrix(space[layer][own], 1.0) @ total
                row = total[0, 1:]
            close(heat.value(branch).flatten(), row)


def test_relevance_asks_for_the_gradients_of_frozen_models_too():
    model = tiny_vit()
    (expected,) = attention_relevance(model, {"pixel_values": images(1)})
    model.requires_grad_(False)
    with torch.no_grad():
        (heat,) = attention_relevance(model, {"pixel_values": images(1)})
    close(heat.value("negative"), expected.value("negative"))


def test_maps_are_not_their_own_gradients():
    model = tiny_vit()
    (heat,) = attention_relevance(model, {"pixel_values": images(1)}, target=0)
    (other,) = attention_relevance(model, {"pixel_values": images(1)}, target=1)
    assert not torch.allclose(heat.value("combined"), other.value("combined"), rtol=0.1)


def test_targets_of_a_batch():
    model = tiny_vit()
    together = attention_relevance(model, {"pixel_values": images(2)}, target=[1, 0])
    for visual, target in enumerate((1, 0)):
        (alone,) = attention_relevance(model, {"pixel_values": images(2)[visual : visual + 1]}, target)
        close(together[visual].value("combined"), alone.value("combined"))


def test_rollout_finds_a_moving_bright_patch():
    model = seek_brightness(tiny_timesformer())
    (heat,) = attention_rollout(model, {"pixel_values": bright_patches(PATH, 4, 5)[None]})
    for frame, place in enumerate(PATH):
        assert place == divmod(int(heat.value("positive")[frame].argmax()), 5)


class ReadsProbes(torch.nn.Module):
    """A vision encoder with a classifier on its probes."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder, self.config, self.device = encoder, encoder.config, encoder.device
        self.head = torch.nn.Linear(16, 3)

    def forward(self, **inputs):
        outputs = self.encoder(**inputs)
        outputs.logits = self.head(outputs.probe_hidden_states.unflatten(0, (-1, 3)).mean(1))
        return outputs


def test_relevance_of_probes_lies_on_the_patches_of_their_own_visual():
    _, inputs = batch_of_visuals()
    torch.manual_seed(0)
    model = ReadsProbes(probes()).eval()
    found = attention_relevance(model, inputs, target=1)
    model.encoder.set_attn_implementation("eager")
    outputs = model(**inputs, output_attentions=True)
    gradients = torch.autograd.grad(outputs.logits[:, 1].sum(), outputs.probe_attentions)
    sums = sum(product(*entry).sum((0, 1)) for entry in zip(outputs.probe_attentions, gradients, strict=True))
    start = 0
    for heat in found:
        grid, merge = inputs["grid_thw"][heat.visual].tolist(), int(inputs["merge_sizes"][heat.visual])
        count = grid[0] * grid[1] * grid[2]
        # numbered pixels, cut into patches as the model wants them, tell the place of every patch
        numbers = torch.arange(count).reshape(grid[0], 1, *grid[1:]).float()
        order = merged_patches(numbers.expand(-1, 3, -1, -1), merge, size=1)[:, 0].long()
        close(heat.value("positive").flatten()[order], sums[start : start + count].detach(), atol=1e-7)
        start += count
    assert len(found) == 3 and start == len(sums)


def test_what_cannot_be_rolled_out_or_explained():
    _, inputs = batch_of_visuals()
    with pytest.raises(AnalysisError, match="probes cannot be rolled out: choose attention maps or relevance"):
        attention_rollout(probes(), inputs)
    with pytest.raises(AnalysisError, match="relevance needs logits"):
        attention_relevance(DnATimesformerModel(tiny_timesformer().config), {"pixel_values": videos(1)})
    with pytest.raises(AnalysisError, match="target 7 does not exist: the model has 2"):
        attention_relevance(tiny_vit(), {"pixel_values": images(1)}, target=7)
    with pytest.raises(AnalysisError, match="query 10 does not exist"):
        attention_rollout(tiny_vit(), {"pixel_values": images(1)}, query=10)
    with pytest.raises(AnalysisError, match="arguments of the model by name"):
        attention_relevance(tiny_vit(), images(1))
