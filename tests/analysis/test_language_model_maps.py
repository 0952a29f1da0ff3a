"""What the probes of a video language model look at, from the pixels that its processors make."""

import numpy as np
import pytest
import torch

from dna_hf import DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel
from dna_hf.analysis import AnalysisError, attention_relevance, visual_maps
from dna_hf.models import DnAVideoLlama3ImageProcessor, DnAVideoLlama3VideoProcessor
from dna_hf.models.modeling_dna_video_llama3 import DnAVideoLlama3VisionInteraction
from tests.kit.seeing import bright_patches, seek_brightness
from tests.models.test_modeling_dna_video_llama3_generation import CLIP, LARGE, SMALL, make_inputs, tiny_model


PROBES = 3
# the images and the video of these samples
INPUTS = make_inputs([5, SMALL, 6, CLIP, 8], [LARGE, 10])


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_maps_of_the_whole_model_are_those_of_its_encoder(model):
    found = visual_maps(model, INPUTS)
    images = visual_maps(
        model.model.vision_model,
        {
            "pixel_values": INPUTS["pixel_values"],
            "grid_thw": INPUTS["image_grid_thw"],
            "merge_sizes": INPUTS["image_merge_sizes"],
        },
    )
    # two layers; images come first
    grids = [(maps.grid.frames, maps.grid.rows, maps.grid.columns) for maps in found]
    assert grids == 2 * [SMALL[1], LARGE[1], CLIP[1]]
    assert [maps.visual for maps in found] == 2 * [0, 1, 2]
    for whole, alone in zip([found[0], found[1], found[3], found[4]], images, strict=True):
        torch.testing.assert_close(whole.positive.patches, alone.positive.patches)
        torch.testing.assert_close(whole.negative.patches, alone.negative.patches)
    assert found[5].positive.patches.sum((-1, -2, -3)).allclose(torch.ones(2, PROBES))


def test_relevance_for_the_next_token(model):
    found = attention_relevance(model, INPUTS, target=[3, 4])
    assert [heat.visual for heat in found] == [0, 1, 2]
    kept = []

    def eager(module, args, kwargs):
        return args, kwargs | {"implementation": "eager"}

    interactions = [module for module in model.modules() if isinstance(module, DnAVideoLlama3VisionInteraction)]
    handles = []
    for interaction in interactions:
        handles.append(interaction.attention.register_forward_pre_hook(eager, with_kwargs=True))
        handles.append(
            interaction.attention.register_forward_hook(lambda module, args, output: kept.append(output[1:]))
        )
    logits = model(**INPUTS).logits[:, -1]
    for handle in handles:
        handle.remove()
    for maps in kept:
        for weights in maps:
            weights.retain_grad()
    (logits[0, 3] + logits[1, 4]).backward()
    # the calls of the images, then those of the video
    for branch, name in enumerate(("positive", "negative")):
        totals = [
            sum((calls[branch].grad * calls[branch]).clamp(min=0).mean(1).sum((0, 1)).sum() for calls in part)
            for part in (kept[:2], kept[2:])
        ]
        sums = [heat.value(name).sum() for heat in found]
        torch.testing.assert_close(sums[0] + sums[1], totals[0].detach())
        torch.testing.assert_close(sums[2], totals[1].detach())
        assert totals[0] > 0 < totals[1]
    model.zero_grad()


def test_text_alone_has_no_maps(model):
    with pytest.raises(AnalysisError, match="reach no attention that can be looked into: give an image or a video"):
        visual_maps(model, {"input_ids": torch.tensor([[5, 6, 7]])})
    with pytest.raises(AnalysisError, match="position 900 does not exist"):
        attention_relevance(model, INPUTS, position=900)


def seeking():
    config = DnAVideoLlama3VisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_probes=PROBES
    )
    return seek_brightness(DnAVideoLlama3VisionModel(config).eval(), sharpness=0.1)


def as_bytes(frames):
    return (255 * frames).movedim(1, -1).to(torch.uint8).numpy()


def test_a_bright_patch_of_an_image_is_found_through_the_processor():
    picture = as_bytes(bright_patches([(4, 1)], 6, 8, size=14))[0]
    inputs = DnAVideoLlama3ImageProcessor()(picture, return_tensors="pt")
    named = {"pixel_values": inputs["pixel_values"], "grid_thw": inputs["image_grid_thw"]}
    (maps,) = visual_maps(seeking(), {**named, "merge_sizes": inputs["image_merge_sizes"]})
    values = maps.heat().value("positive")[0]
    assert values.shape == (6, 8) and divmod(int(values.argmax()), 8) == (4, 1)


def test_a_moving_bright_patch_is_found_through_the_processor():
    path = [(0, 3), (5, 6), (7, 0)]
    video = as_bytes(bright_patches(path, 8, 8, size=14))
    inputs = DnAVideoLlama3VideoProcessor()([np.asarray(video)], return_tensors="pt", do_sample_frames=False)
    assert inputs["video_merge_sizes"].tolist() == [2]
    named = {"pixel_values": inputs["pixel_values_videos"], "grid_thw": inputs["video_grid_thw"]}
    (maps,) = visual_maps(seeking(), {**named, "merge_sizes": inputs["video_merge_sizes"]})
    heat = maps.heat()
    for frame, place in enumerate(path):
        assert divmod(int(heat.value("positive")[frame].argmax()), 8) == place
        assert divmod(int(heat.value("negative")[frame].argmin()), 8) == place
