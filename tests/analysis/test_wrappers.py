"""Models as tools for explanations want them."""

import pytest
import torch

from dna_hf.analysis import AnalysisError, LogitsModel, reshape_transform
from tests.kit.models import FRAMES, images, tiny_probes, tiny_timesformer, tiny_vit, videos


def test_logits_are_a_tensor():
    model = tiny_vit()
    assert torch.equal(LogitsModel(model)(images(2)), model(images(2)).logits)


def test_tokens_of_images_lie_where_their_patches_do():
    model = tiny_vit(use_distillation_token=True)
    tokens = torch.randn(2, 2 + 9, 16)
    grid = reshape_transform(model)(tokens)
    assert grid.shape == (2, 16, 3, 3)
    assert torch.equal(grid[:, :, 1, 2], tokens[:, 2 + 1 * 3 + 2])
    assert reshape_transform(model, height=8, width=20)(torch.cat((tokens, tokens), 1)[:, :12]).shape[2:] == (2, 5)
    with pytest.raises(AnalysisError, match="11 tokens are not those of 1 x 2 x 5 patches: say the size"):
        reshape_transform(model, height=8, width=20)(tokens)


def test_tokens_of_videos_lie_where_their_patches_do():
    model, tokens = tiny_timesformer(), []
    model.dna_timesformer.embeddings.register_forward_hook(lambda module, args, output: tokens.append(output))
    embeddings = model.dna_timesformer.embeddings
    with torch.no_grad():
        model(videos(1))
        own = embeddings.patch_embeddings(videos(1)[0])
        expected = own + embeddings.position_embeddings[:, 1:] + embeddings.time_embeddings[0][:, None]
    grid = reshape_transform(model)(tokens[0])
    assert grid.shape == (1, 16, FRAMES, 3, 3)
    torch.testing.assert_close(grid[0].flatten(2).permute(1, 2, 0), expected)
    assert reshape_transform(model)(tokens[0][:, :10]).shape == (1, 16, 3, 3)
    with pytest.raises(AnalysisError, match="DnAVideoLlama3VisionModel has no grid"):
        reshape_transform(tiny_probes())


def test_captum_explains_with_them():
    captum = pytest.importorskip("captum.attr", reason="captum is not installed")
    model = tiny_vit()
    wrapped = LogitsModel(model)
    pixels = captum.IntegratedGradients(wrapped).attribute(images(2), target=1, n_steps=64)
    change = wrapped(images(2))[:, 1] - wrapped(torch.zeros(2, 3, 12, 12))[:, 1]
    torch.testing.assert_close(pixels.sum((1, 2, 3)).float(), change, rtol=0.05, atol=0.02)
    layer = captum.LayerActivation(wrapped, model.dna_vit.layers[-1].layernorm_before)
    assert reshape_transform(model)(layer.attribute(images(2))).shape == (2, 16, 3, 3)
