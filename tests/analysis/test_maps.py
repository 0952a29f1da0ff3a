"""The maps of every model against what eager attention returns, and where they lie."""

import pytest
import torch

from dna_hf import DnAVideoLlama3VisionConfig, DnAVideoLlama3VisionModel, DnAViTConfig, DnAViTModel
from dna_hf.analysis import AnalysisError, visual_maps
from dna_hf.models.attention_variants import ATTENTION_VARIANTS, TWO_MAP_VARIANTS, VariantAttention
from tests.kit.models import FRAMES, HEADS, LAYERS, images, tiny_timesformer, tiny_vit, videos
from tests.kit.seeing import bright_patches, merged_patches, seek_brightness


ROWS = COLUMNS = 3


def eager(model, **inputs):
    """What the model itself returns under eager attention."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(**inputs, output_attentions=True)


def whole(placed):
    """Rows as the model has them, for images: (heads, queries, keys)."""
    return torch.cat((placed.prefix.flatten(2), placed.patches.flatten(2)), dim=2)


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


# compiling flex attention takes long
@pytest.mark.parametrize("backend", ["eager", "sdpa", pytest.param("flex_attention", marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", ATTENTION_VARIANTS)
def test_maps_of_images_are_those_of_eager(variant, backend):
    model = tiny_vit(variant, attn_implementation=backend)
    found = visual_maps(model, {"pixel_values": images(2)}, queries=range(10))
    assert model.config._attn_implementation == backend
    assert [(maps.place.layer, maps.visual) for maps in found] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    expected = eager(model, pixel_values=images(2))
    for maps in found:
        assert maps.positive.patches.shape == (HEADS, 10, 1, ROWS, COLUMNS)
        close(whole(maps.positive), expected.attentions[maps.place.layer][maps.visual])
        assert (maps.negative is not None) == (variant in TWO_MAP_VARIANTS)
        if maps.negative is not None:
            close(whole(maps.negative), expected.negative_attentions[maps.place.layer][maps.visual])
            close(whole(maps.negative).sum(-1), torch.ones(HEADS, 10))
        weights = whole(maps.positive).abs() if maps.variant == "cog" else whole(maps.positive)
        close(weights.sum(-1), torch.ones(HEADS, 10))


@pytest.mark.parametrize("size", [(12, 12), (16, 24)])
@pytest.mark.parametrize("distilled", [False, True])
def test_class_token_at_any_size(size, distilled):
    model = tiny_vit(interpolate_pos_encoding=True, use_distillation_token=distilled)
    pixel_values = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(2))
    (maps,) = visual_maps(model, {"pixel_values": pixel_values}, layers=[-1], heads=[1])
    assert (maps.grid.rows, maps.grid.columns, maps.grid.prefix) == (size[0] // 4, size[1] // 4, 1 + distilled)
    expected = eager(model, pixel_values=pixel_values)
    close(whole(maps.positive), expected.attentions[1][0, 1:, :1])
    close(whole(maps.negative), expected.negative_attentions[1][0, 1:, :1])


@pytest.mark.parametrize("size", [224, 288])
def test_class_token_of_images_of_224_pixels_and_more(size):
    torch.manual_seed(0)
    config = DnAViTConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=48, interpolate_pos_encoding=True
    )
    model = DnAViTModel(config).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.2)
    pixel_values = torch.randn(1, 3, size, size)
    found = visual_maps(model, {"pixel_values": pixel_values})
    expected = eager(model, pixel_values=pixel_values)
    for maps in found:
        assert (maps.grid.rows, maps.grid.columns) == (size // 16, size // 16)
        # far from even
        assert whole(maps.positive).max() > 2 * maps.uniform
        close(whole(maps.positive), expected.attentions[maps.place.layer][0, :, :1])
        close(whole(maps.negative), expected.negative_attentions[maps.place.layer][0, :, :1])
        close(whole(maps.positive).sum(-1), torch.ones(3, 1))


def test_queries_are_named_by_number_or_place():
    model, inputs = tiny_vit(), {"pixel_values": images(1)}
    every = visual_maps(model, inputs, layers=[0], queries=range(10))[0]
    named = visual_maps(model, inputs, layers=[0], heads=[-1], queries=["class", (1, 2), -1])[0]
    assert (named.heads, named.queries) == ([1], [0, 6, 9])
    close(named.positive.patches[0], every.positive.patches[1, [0, 6, 9]])
    close(named.heat(query=6).value("negative"), every.heat(head=1, query=6).value("negative"))
    close(every.heat().value("positive"), every.positive.patches.mean(dim=(0, 1)))


def test_masked_keys_have_no_weight():
    model = tiny_vit()
    attention = next(module for module in model.modules() if isinstance(module, VariantAttention))
    allowed = torch.ones(1, 1, 10, 10, dtype=torch.bool)
    allowed[0, 0, 3, 5:] = False

    def add_mask(module, args, kwargs):
        return args[:1], {**kwargs, "attention_mask": allowed}

    attention.register_forward_pre_hook(add_mask, with_kwargs=True)
    maps, _ = visual_maps(model, {"pixel_values": images(2)}, layers=[0], queries=[2, 3])
    assert (whole(maps.positive)[:, 0] > 0).all()
    assert not whole(maps.positive)[:, 1, 5:].any() and (whole(maps.negative)[:, 1, :5] > 0).all()


def test_packed_sequences_are_refused():
    model = tiny_vit()
    attention = next(module for module in model.modules() if isinstance(module, VariantAttention))
    attention.takes_packed_sequences = lambda implementation: True

    def pack(module, args, kwargs):
        return args, {**kwargs, "cu_seq_lens_q": torch.tensor([0, 5, 10])}

    attention.register_forward_pre_hook(pack, with_kwargs=True)
    with pytest.raises(AnalysisError, match="in layer 0 cannot .* sequences packed .*: use eager or sdpa"):
        visual_maps(model, {"pixel_values": images(1)})


def test_combined_map_adds_alpha_times_the_softmin():
    model, pixel_values = tiny_vit(), images(1)
    (maps,) = visual_maps(model, {"pixel_values": pixel_values}, layers=[1])
    alpha = model.dna_vit.layers[1].attention.negative_scale.detach()
    expected = eager(model, pixel_values=pixel_values)
    rows = expected.attentions[1][0, :, :1] + alpha[:, None, None] * expected.negative_attentions[1][0, :, :1]
    close(whole(maps.combined()), rows)
    values = maps.heat().values
    close(values["combined"].flatten(), rows[..., 1:].mean(dim=(0, 1)))
    close(values["difference"], values["positive"] - values["negative"])


def test_differential_attention_subtracts_lambda_times_its_second_map():
    model, pixel_values = tiny_vit("differential"), images(1)
    (maps,) = visual_maps(model, {"pixel_values": pixel_values}, layers=[1])
    factor = model.dna_vit.layers[1].attention.current_lambda().detach()
    expected = eager(model, pixel_values=pixel_values)
    rows = expected.attentions[1][0, :, :1] - factor * expected.negative_attentions[1][0, :, :1]
    close(whole(maps.combined()), rows)


def test_parts_of_signed_maps():
    (maps,) = visual_maps(tiny_vit("cog"), {"pixel_values": images(1)}, layers=[1])
    values = maps.heat().values
    assert values["positive"].min() >= 0 and values["negative"].max() > 0
    close(values["difference"], maps.positive.patches.mean(dim=(0, 1)))


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_maps_of_videos_are_those_of_eager(attention_type):
    model = tiny_timesformer(attention_type=attention_type)
    found = visual_maps(model, {"pixel_values": videos(2)})
    expected = eager(model, pixel_values=videos(2))
    for maps in found:
        layer, axis = maps.place.layer, maps.place.axis
        grid = maps.positive.patches
        for sign, placed in (("", maps.positive), ("negative_", maps.negative)):
            grid = placed.patches
            for frame in range(FRAMES):
                for row in range(ROWS):
                    for column in range(COLUMNS):
                        patch = row * COLUMNS + column
                        if axis == "time":
                            rows = getattr(expected, f"{sign}temporal_attentions")[layer][maps.visual * 9 + patch]
                            close(grid[:, :, frame, row, column], rows[:, :, frame])
                        elif axis == "space":
                            rows = getattr(expected, f"{sign}attentions")[layer][maps.visual * FRAMES + frame]
                            close(grid[:, 0, frame, row, column], rows[:, 0, 1 + patch])
                        else:
                            rows = getattr(expected, f"{sign}attentions")[layer][maps.visual]
                            close(grid[:, 0, frame, row, column], rows[:, 0, 1 + patch * FRAMES + frame])
            # each query has 1 to give: over the frames of a place, the places of a frame, or all
            sums = {"time": grid.sum(2), "space": grid.sum((-1, -2)) + placed.prefix.sum(-1)}
            total = sums.get(axis, grid.sum((-1, -2, -3)) + placed.prefix.sum((-1, -2)))
            close(total, torch.ones_like(total))
    axes = {"divided_space_time": 2, "joint_space_time": 1, "space_only": 1}
    assert len(found) == 2 * LAYERS * axes[attention_type]


PATH = [(0, 1), (2, 0), (1, 3), (3, 2)]


@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_a_moving_bright_patch_is_found(attention_type):
    model = seek_brightness(tiny_timesformer(attention_type=attention_type))
    video = bright_patches(PATH, 4, 5)
    axis = "space_time" if attention_type == "joint_space_time" else "space"
    queries = ["class", (2, 1, 1) if axis == "space_time" else (1, 1)]
    for maps in visual_maps(model, {"pixel_values": video[None]}, axis=axis, queries=queries):
        assert maps.grid.frames == 4
        heat = maps.heat()
        for frame, place in enumerate(PATH):
            assert place == divmod(int(heat.value("positive")[frame].argmax()), 5)
            assert place == divmod(int(heat.value("negative")[frame].argmin()), 5)


def test_time_finds_the_frame_at_each_place():
    model = seek_brightness(tiny_timesformer())
    video = bright_patches(PATH, 4, 5)
    for maps in visual_maps(model, {"pixel_values": video[None]}, axis="time"):
        heat = maps.heat()
        for frame, (row, column) in enumerate(PATH):
            assert heat.value("positive")[:, row, column].argmax() == frame
            assert heat.value("negative")[:, row, column].argmin() == frame
        assert heat.value("positive")[:, 3, 4].allclose(torch.tensor(0.25))


def probes(**overrides):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "patch_size": 4, "num_probes": 3}
    config = DnAVideoLlama3VisionConfig(**sizes, num_hidden_layers=3, interaction_layers=[0, 2], **overrides)
    return DnAVideoLlama3VisionModel(config).eval()


def batch_of_visuals():
    """An image, a video and an image, of different sizes and blocks, and where they are bright."""
    places = [[(1, 4)], [(0, 3), None, (5, 2)], [(2, 1)]]
    sizes, merges = [(4, 6), (6, 4), (3, 3)], [2, 2, 1]
    parts = [
        merged_patches(bright_patches(path, *size), merge)
        for path, size, merge in zip(places, sizes, merges, strict=True)
    ]
    grids = [(len(path), *size) for path, size in zip(places, sizes, strict=True)]
    return places, {
        "pixel_values": torch.cat(parts),
        "grid_thw": torch.tensor(grids),
        "merge_sizes": torch.tensor(merges),
    }


@pytest.mark.parametrize("backend", ["eager", "sdpa"])
def test_probes_find_the_bright_patch_of_their_own_visual(backend):
    places, inputs = batch_of_visuals()
    model = seek_brightness(probes(attn_implementation=backend))
    found = visual_maps(model, inputs, queries=[1, 2])
    assert [(maps.place.layer, maps.visual) for maps in found] == [(layer, v) for layer in (0, 2) for v in range(3)]
    for maps in found:
        assert (maps.grid.frames, maps.grid.rows, maps.grid.columns) == tuple(inputs["grid_thw"][maps.visual].tolist())
        close(maps.positive.patches.sum((-1, -2, -3)), torch.ones(2, 2))
        heat = maps.heat()
        for frame, place in enumerate(places[maps.visual]):
            values = heat.value("positive")[frame]
            if place is not None:
                assert place == divmod(int(values.argmax()), maps.grid.columns)
                assert place == divmod(int(heat.value("negative")[frame].argmin()), maps.grid.columns)
            else:
                assert values.max() - values.min() < 1e-6


def test_probes_of_a_batch_see_what_they_see_alone():
    _, inputs = batch_of_visuals()
    torch.manual_seed(0)
    model = probes(attn_implementation="sdpa")
    together = visual_maps(model, inputs)
    lengths = [int(grid.prod()) for grid in inputs["grid_thw"]]
    for visual, patches in enumerate(inputs["pixel_values"].split(lengths)):
        alone = visual_maps(
            model,
            {
                "pixel_values": patches,
                "grid_thw": inputs["grid_thw"][visual : visual + 1],
                "merge_sizes": inputs["merge_sizes"][visual : visual + 1],
            },
        )
        for layer, maps in enumerate(alone):
            close(together[3 * layer + visual].positive.patches, maps.positive.patches)
            close(together[3 * layer + visual].negative.patches, maps.negative.patches)


def test_the_model_is_left_as_it_was():
    model = tiny_vit().train()
    model.classifier.eval()
    visual_maps(model, {"pixel_values": images(1)})
    assert model.training and not model.classifier.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [2]}, "layer 2 does not exist: the model has 2, counted from 0"),
        ({"heads": [-3]}, "head -3 does not exist: the model has 2, counted from 0"),
        ({"queries": [10]}, r"query 10 does not exist: there are 10, counted from 0 .* of 3 rows and 3 columns"),
        ({"queries": [(0, 3)]}, r"query \(0, 3\) does not exist"),
        ({"queries": ["cls"]}, "query 'cls' does not exist"),
        ({"axis": "time"}, "the model does not attend over 'time': choose space"),
    ],
)
def test_what_does_not_exist(arguments, message):
    model = tiny_vit()
    with pytest.raises(AnalysisError, match=message):
        visual_maps(model, {"pixel_values": images(1)}, **arguments)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_does_not_exist_in_videos_and_probes():
    with pytest.raises(AnalysisError, match="over space and time: say by axis"):
        visual_maps(tiny_timesformer(), {"pixel_values": videos(1)}, queries=[0])
    with pytest.raises(AnalysisError, match="query 3 does not exist: over time the queries are the 3 frames"):
        visual_maps(tiny_timesformer(), {"pixel_values": videos(1)}, queries=[3], axis="time")
    joint = tiny_timesformer(attention_type="joint_space_time")
    with pytest.raises(AnalysisError, match=r"query \(3, 0, 0\) does not exist"):
        visual_maps(joint, {"pixel_values": videos(1)}, queries=[(3, 0, 0)])
    _, inputs = batch_of_visuals()
    with pytest.raises(AnalysisError, match="no probe reads layer 1: choose among 0, 2"):
        visual_maps(probes(), inputs, layers=[1])
    with pytest.raises(AnalysisError, match="query 'class' does not exist: the queries are the 3 probes"):
        visual_maps(probes(), inputs, queries=["class"])


def test_what_cannot_be_looked_into():
    with pytest.raises(AnalysisError, match="arguments of the model by name are needed"):
        visual_maps(tiny_vit(), images(1))
    with pytest.raises(AnalysisError, match="has no attention to look into"):
        visual_maps(torch.nn.Linear(2, 2), {"input": images(1)})
    model = tiny_vit()
    with torch.no_grad():
        model.dna_vit.layers[1].attention.k_proj.weight[0] = torch.nan
    with pytest.raises(AnalysisError, match="a map of the attention over space in layer 1 has values"):
        visual_maps(model, {"pixel_values": images(1)})
