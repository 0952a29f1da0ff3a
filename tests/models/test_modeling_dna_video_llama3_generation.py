"""VideoLLaMA3 with visual probes as a whole: placeholders, transformers' own VideoLLaMA3, gradients and generation."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText
from transformers.models.video_llama_3.configuration_video_llama_3 import VideoLlama3Config
from transformers.models.video_llama_3.modeling_video_llama_3 import VideoLlama3ForConditionalGeneration

from dna_hf.models import DnAVideoLlama3Config, DnAVideoLlama3ForConditionalGeneration, DnAVideoLlama3Model
from tests.kit.models import moved


PATCH, PROBES, VOCABULARY = 2, 3, 50
PAD, IMAGE, VIDEO, IMAGE_PROBE, VIDEO_PROBE = 0, 40, 41, 42, 43
IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO}
ALL_IDS = IDS | {"image_probe_token_id": IMAGE_PROBE, "video_probe_token_id": VIDEO_PROBE}
VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "patch_size": PATCH,
}
TEXTS = {
    "qwen2": {"num_key_value_heads": 1},
    "llama": {"num_key_value_heads": 2},
    "gpt_neox": {},
}
# (frames, rows, columns) in patches and the merge size of an image, a large image, a video
SMALL, LARGE, CLIP = ("image", (1, 2, 2), 1), ("image", (1, 4, 6), 2), ("video", (3, 2, 4), 2)


def tiny_config(text="qwen2", vision=(), **overrides):
    text_config = {
        "model_type": text,
        "vocab_size": VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": PAD,
    }
    vision_config = VISION | {"num_probes": PROBES, "cog_softmax_layers": [1]} | dict(vision)
    text_config |= TEXTS.get(text, {})
    return DnAVideoLlama3Config(text_config=text_config, vision_config=vision_config, **ALL_IDS | overrides)


def tiny_model(*args, **overrides):
    """A small model in evaluation mode, with every parameter moved from its initial value."""
    attention = overrides.pop("attn_implementation", "sdpa")
    torch.manual_seed(0)
    model = DnAVideoLlama3ForConditionalGeneration._from_config(
        tiny_config(*args, **overrides), attn_implementation=attention
    ).eval()
    model = moved(model, 0.1)
    model.generation_config.pad_token_id = PAD
    return model


def tokens_of(visual):
    _, (frames, rows, columns), merge = visual
    return frames * (rows // merge) * (columns // merge)


def make_inputs(*samples, side="left", tokens=True, probes=PROBES):
    """Inputs of samples, each a list of token ids and visuals."""
    rows, visuals = [], {"image": [], "video": []}
    for sample in samples:
        row = []
        for part in sample:
            if isinstance(part, int):
                row.append(part)
                continue
            video = part[0] == "video"
            visuals[part[0]].append(part)
            row += [VIDEO if video else IMAGE] * (tokens_of(part) if tokens else 0)
            row += [7] + [VIDEO_PROBE if video else IMAGE_PROBE] * probes
        rows.append(row)
    longest = max(map(len, rows))
    padded = [
        [PAD] * (longest - len(row)) + row if side == "left" else row + [PAD] * (longest - len(row)) for row in rows
    ]
    masks = [[1] * len(row) for row in rows]
    masks = [[0] * (longest - len(m)) + m if side == "left" else m + [0] * (longest - len(m)) for m in masks]
    inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(masks)}
    for modality, end in (("image", ""), ("video", "_videos")):
        if visuals[modality]:
            grids = torch.tensor([grid for _, grid, _ in visuals[modality]])
            # made of the size, so that a visual has the same pixels in every batch
            inputs[f"pixel_values{end}"] = torch.cat(
                [
                    torch.randn(
                        int(grid.prod()), 3 * PATCH**2, generator=torch.Generator().manual_seed(int(grid.sum()))
                    )
                    for grid in grids
                ]
            )
            inputs[f"{modality}_grid_thw"] = grids
            inputs[f"{modality}_merge_sizes"] = torch.tensor([merge for _, _, merge in visuals[modality]])
    return inputs


MIXED = ([5, SMALL, 6, CLIP, 8, 9], [LARGE, 10], [11, 12, 13], [CLIP, SMALL, 14])


@torch.no_grad()
def logits_of(model, inputs):
    return model(**inputs).logits


@torch.no_grad()
def answer(model, inputs, **options):
    output = model.generate(**inputs, **{"max_new_tokens": 8, "do_sample": False} | options)
    return output[:, inputs["input_ids"].shape[1] :]


def native_twin(model):
    """transformers' own VideoLLaMA3 with the weights of a model."""
    text = model.config.text_config.to_dict()
    config = VideoLlama3Config(text_config=text, vision_config=VISION, **IDS)
    native = VideoLlama3ForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval()
    own = model.state_dict()
    native.load_state_dict({name: own[name] for name in native.state_dict()})
    native.generation_config.suppress_tokens = model.generation_config.suppress_tokens
    native.generation_config.pad_token_id = PAD
    return native


@pytest.fixture(scope="module")
def model():
    return tiny_model()


# --- against transformers' own


@pytest.mark.parametrize("text", TEXTS)
def test_without_probes_it_is_the_native_model(text):
    model = tiny_model(text, include_visual_probes=False)
    native = native_twin(model)
    for samples in ([[5, SMALL, 6]], [[5, CLIP, 6]], [[5, 6, 8]], MIXED):
        inputs = make_inputs(*samples, probes=0)
        torch.testing.assert_close(logits_of(model, inputs), logits_of(native, inputs), rtol=0, atol=1e-5)
        assert torch.equal(answer(model, inputs), answer(native, inputs))
        assert torch.equal(answer(model, inputs, num_beams=3), answer(native, inputs, num_beams=3))


def test_compression_is_that_of_the_native_model():
    model = tiny_model(include_visual_probes=False)
    inputs = make_inputs([5, CLIP, 6], probes=0)
    keep = torch.tensor([1, 1, 0, 1, 0, 0], dtype=torch.bool)
    inputs["input_ids"] = torch.tensor([[5, *[VIDEO] * 3, 7, 6]])
    inputs["attention_mask"] = torch.ones(1, 6, dtype=torch.long)
    inputs["video_compression_mask"] = keep
    torch.testing.assert_close(logits_of(model, inputs), logits_of(native_twin(model), inputs), rtol=0, atol=1e-5)
    assert torch.equal(answer(model, inputs), answer(native_twin(model), inputs))
    # the native model does not take compressed videos with beams
    assert answer(model, inputs, num_beams=2).shape == (1, 8)
    inputs["video_compression_mask"] = keep[:-1]
    with pytest.raises(ValueError, match="one value for each of the 6 tokens of the videos"):
        model(**inputs)


@pytest.mark.parametrize("variant", ["dna", "dna_shared_value"])
def test_zero_scale_equals_softmax(variant):
    model = tiny_model(vision={"attention_variant": variant})
    softmax = tiny_model(vision={"attention_variant": "softmax"})
    weights = {}
    for name, tensor in model.state_dict().items():
        if "negative_scale" in name:
            tensor.zero_()
        elif "_neg_proj" not in name:
            weights[name.replace("q_pos_proj", "q_proj").replace("v_pos_proj", "v_proj")] = tensor
    softmax.load_state_dict(weights)
    inputs = make_inputs(*MIXED)
    torch.testing.assert_close(logits_of(model, inputs), logits_of(softmax, inputs), rtol=0, atol=1e-6)


# --- placeholders


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("probes", [True, False])
def test_features_stand_in_the_places_of_their_placeholders(tokens, probes):
    if not (tokens or probes):
        with pytest.raises(StrictDataclassError, match="nothing would be seen"):
            tiny_config(include_visual_tokens=False, include_visual_probes=False)
        return
    model = tiny_model(include_visual_tokens=tokens, include_visual_probes=probes)
    inputs = make_inputs(*MIXED, tokens=tokens, probes=PROBES if probes else 0)
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(inputs["input_ids"])
        for modality, end in (("image", ""), ("video", "_videos")):
            grids, merges = inputs[f"{modality}_grid_thw"], inputs[f"{modality}_merge_sizes"]
            seen = model.model.vision_model(inputs[f"pixel_values{end}"], grids, merges)
            rows = {
                f"{modality}_token_id": model.model.projector(seen.last_hidden_state),
                f"{modality}_probe_token_id": model.model.probe_projector(seen.probe_hidden_states),
            }
            for name, features in rows.items():
                features = iter(features)
                for sample, position in (inputs["input_ids"] == ALL_IDS[name]).nonzero().tolist():
                    embeddings[sample, position] = next(features)
        hidden = model.model.language_model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"])[0]
        expected = model.lm_head(hidden)
    torch.testing.assert_close(logits_of(model, inputs), expected, rtol=0, atol=1e-6)


def test_embeddings_instead_of_token_ids(model):
    inputs = make_inputs(*MIXED)
    expected = logits_of(model, inputs)
    embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
    torch.testing.assert_close(logits_of(model, inputs | {"inputs_embeds": embeddings}), expected, rtol=0, atol=1e-6)


def test_what_was_seen_instead_of_pixels(model):
    inputs = make_inputs(*MIXED)
    expected = logits_of(model, inputs)
    images = {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "image_merge_sizes")}
    videos = {name: inputs[name] for name in ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")}
    seen = {"image": model.get_image_features(**images), "video": model.get_video_features(**videos)}
    assert [len(tokens) for tokens in seen["image"].pooler_output] == [4, 6, 4]
    assert [probes.shape for probes in seen["video"].probe_pooler_output] == [(PROBES, 24)] * 2
    text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    torch.testing.assert_close(logits_of(model, text | {"mm_encoder_outputs": seen}), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="pixels or mm_encoder_outputs, not both"):
        model(**inputs, mm_encoder_outputs=seen)
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"):
        model(**images)


@pytest.mark.parametrize("name", ALL_IDS)
def test_a_wrong_number_of_placeholders_is_refused(model, name):
    inputs = make_inputs(*MIXED)
    place = (inputs["input_ids"] == ALL_IDS[name]).nonzero()[0]
    inputs["input_ids"][tuple(place)] = 5
    count = int((inputs["input_ids"] == ALL_IDS[name]).sum())
    with pytest.raises(ValueError, match=rf"has {count} placeholders of {name} .*there are {count + 1} features"):
        model(**inputs)
    for start in ("pixel_values", "pixel_values_videos"):
        inputs.pop(start)
    with pytest.raises(ValueError, match="placeholders of .* but there are 0 features"):
        model(**inputs)
    with pytest.raises(ValueError, match="placeholders of .* but there are 0 features"):
        model.generate(input_ids=torch.tensor([[5, ALL_IDS[name]]]), max_new_tokens=2)


# --- the same by other ways


def test_samples_of_a_batch_are_as_alone(model):
    for side in ("left", "right"):
        together = logits_of(model, make_inputs(*MIXED, side=side))
        for index, sample in enumerate(MIXED):
            alone = logits_of(model, make_inputs(sample))[0]
            rows = together[index, -len(alone) :] if side == "left" else together[index, : len(alone)]
            torch.testing.assert_close(rows, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("implementation", ["eager", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_backends_agree(implementation):
    # on CPU, flex attention without a mask returns wrong numbers for some multiples of 8 keys, as of a 2x4 grid
    samples = MIXED if implementation == "eager" else [[5, ("image", (1, 3, 3), 1), 6]]
    inputs = make_inputs(*samples)
    expected = logits_of(tiny_model(), inputs)
    logits = logits_of(tiny_model(attn_implementation=implementation), inputs)
    kept = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[kept], expected[kept], rtol=0, atol=2e-5)


def test_saved_and_loaded(model, tmp_path):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "dna_video_llama3"
    assert config["vision_config"]["model_type"] == "dna_video_llama3_vision"
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForImageTextToText"}
    loaded, info = AutoModelForImageTextToText.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is DnAVideoLlama3ForConditionalGeneration
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.generation_config.suppress_tokens == [IMAGE, VIDEO, IMAGE_PROBE, VIDEO_PROBE]
    inputs = make_inputs(*MIXED)
    assert torch.equal(logits_of(loaded, inputs), logits_of(model, inputs))
    assert type(AutoModel.from_pretrained(tmp_path)) is DnAVideoLlama3Model
    assert AutoConfig.from_pretrained(tmp_path).placeholder_token_ids == ALL_IDS


def test_tied_embeddings(tmp_path):
    config = tiny_config()
    config = DnAVideoLlama3Config(**config.to_dict() | {"tie_word_embeddings": True})
    model = DnAVideoLlama3ForConditionalGeneration(config)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    loaded = DnAVideoLlama3ForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


# --- gradients


def test_every_part_learns_and_checkpointing_changes_nothing():
    model = tiny_model().train()
    inputs = make_inputs(*MIXED, side="right")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= IMAGE, -100)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        output = model(**inputs, labels=labels)
        output.loss.backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        # all keys with the same bias give the same softmax
        if "k_proj.bias" not in name:
            assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)
    logits = output.logits[:, :-1].double()
    targets = labels[:, 1:]
    expected = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets)
    torch.testing.assert_close(output.loss.double(), expected, rtol=0, atol=1e-6)


def test_loss_over_a_number_of_items(model):
    inputs = make_inputs(*MIXED, side="right")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] >= IMAGE, -100)
    count = int((labels[:, 1:] != -100).sum())
    with torch.no_grad():
        mean, shared = (
            model(**inputs, labels=labels, **more).loss for more in ({}, {"num_items_in_batch": 3 * count})
        )
    torch.testing.assert_close(mean, 3 * shared, rtol=0, atol=1e-5)


# --- generation


def test_greedy_with_and_without_cache(model):
    inputs = make_inputs(*MIXED)
    expected = inputs["input_ids"]
    grown = dict(inputs)
    for _ in range(8):
        logits = logits_of(model, grown)[:, -1]
        logits[:, model.generation_config.suppress_tokens] = -torch.inf
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], dim=1)
        mask = torch.nn.functional.pad(
            inputs["attention_mask"], (0, expected.shape[1] - inputs["input_ids"].shape[1]), value=1
        )
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        grown |= {"input_ids": expected, "attention_mask": mask, "position_ids": positions}
    expected = expected[:, -8:]
    assert torch.equal(answer(model, inputs), expected)
    assert torch.equal(answer(model, inputs, use_cache=False), expected)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_generation_of_a_batch_is_as_alone(model, options):
    together = answer(model, make_inputs(*MIXED), **options)
    returned = options.get("num_return_sequences", 1)
    alone = [answer(model, make_inputs(sample), **options) for sample in MIXED]
    assert torch.equal(together, torch.cat(alone))
    assert len(together) == len(MIXED) * returned
    # what is seen matters
    assert len({tuple(row) for row in together.tolist()}) > 1


def test_beams_see_only_probes():
    model = tiny_model(include_visual_tokens=False)
    together = answer(model, make_inputs(*MIXED, tokens=False), num_beams=3)
    alone = [answer(model, make_inputs(sample, tokens=False), num_beams=3) for sample in MIXED]
    assert torch.equal(together, torch.cat(alone))


def test_sampling(model):
    inputs = make_inputs(*MIXED)
    options = {"do_sample": True, "num_return_sequences": 4, "temperature": 2.0, "max_new_tokens": 16}
    torch.manual_seed(3)
    first = answer(model, inputs, **options)
    torch.manual_seed(3)
    assert torch.equal(answer(model, inputs, **options), first)
    assert len(first) == 4 * len(MIXED)
    assert len({tuple(row) for row in first[:4].tolist()}) > 1
    assert not torch.isin(first, torch.tensor(list(ALL_IDS.values()))).any()


def test_beams_of_placeholders_that_belong_to_nobody_are_refused(model):
    inputs = make_inputs(*MIXED[:2])
    place = tuple((inputs["input_ids"][0] == IMAGE).nonzero()[0])
    inputs["input_ids"][0][place] = 5
    with pytest.raises(ValueError, match="placeholders of sample 0 do not fit the images given"):
        model.generate(**inputs, num_beams=2, max_new_tokens=2)


# --- configurations that cannot be


@pytest.mark.parametrize(
    "change, message",
    [
        ({"image_probe_token_id": VOCABULARY}, "image_probe_token_id is 50, but the vocabulary .* has 50 tokens"),
        ({"video_probe_token_id": -1}, "video_probe_token_id is -1"),
        ({"video_token_id": IMAGE}, "must be different tokens"),
        ({"include_visual_probes": "no"}, "include_visual_probes"),
        ({"text_config": {"model_type": "qwen9"}}, "model_type 'qwen9', which transformers does not know"),
    ],
)
def test_configurations_that_cannot_be_are_refused(change, message):
    settings = tiny_config().to_dict() | change
    with pytest.raises((StrictDataclassError, ValueError), match=message):
        DnAVideoLlama3Config(**settings)
