"""The processor of a converted video language model: tokenizer and pixels of the source, placeholders that fit."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from dna_hf.conversion import ConversionError, convert_authors_checkpoint, from_pretrained_softmax
from tests.kit.native_video_llm import OWN, native_model, own_config, renamed, write_folder
from tests.kit.paths import shared_path


MEAN, STD = [0.4, 0.45, 0.5], [0.2, 0.25, 0.3]
PIXELS = {"image_mean": MEAN, "image_std": STD, "patch_size": 2, "resample": 3, "rescale_factor": 1 / 255}


@pytest.fixture(scope="module")
def tokenizer():
    return shared_path("data", "smollm2-tokenizer")


@pytest.fixture(scope="module")
def source(tokenizer):
    return native_model("llama", vocabulary=49152)


def add_files(folder, tokenizer, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for path in tokenizer.iterdir():
        shutil.copy(path, folder / path.name)
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def conversation(**visual):
    content = [{"type": kind, kind: value} for kind, value in visual.items()] + [{"type": "text", "text": "What?"}]
    return [{"role": "user", "content": content}]


def frames(count, size=16):
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Image.fromarray(frame) for frame in pixels]


def run(model, processor, **visual):
    given = processor.apply_chat_template(
        conversation(**visual), tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    with torch.no_grad():
        return given, model(**given).logits


@pytest.mark.parametrize("nested", [False, True])
def test_a_folder_of_transformers_with_its_processor(tmp_path, tokenizer, source, nested):
    source.save_pretrained(tmp_path / "native")
    image = PIXELS | {"merge_size": 1, "size": {"shortest_edge": 64, "longest_edge": 1024}}
    video = PIXELS | {"merge_size": 2, "fps": 2, "use_token_compression": True, "size": {"longest_edge": 602112}}
    files = {"preprocessor_config": image, "video_preprocessor_config": video}
    if nested:
        files = {"processor_config": {"image_processor": image, "video_processor": video}}
    add_files(tmp_path / "native", tokenizer, **files)
    conversion = from_pretrained_softmax(tmp_path / "native", num_probes=4)
    conversion.save_pretrained(tmp_path / "dna")
    model, processor = (
        auto.from_pretrained(tmp_path / "dna") for auto in (AutoModelForImageTextToText, AutoProcessor)
    )
    for part in (processor.image_processor, processor.video_processor):
        assert (list(part.image_mean), list(part.image_std), part.patch_size) == (MEAN, STD, 2)
    assert (processor.image_processor.merge_size, processor.video_processor.merge_size) == (1, 2)
    assert processor.image_processor.size["longest_edge"] == 1024
    assert (processor.video_processor.fps, processor.video_processor.max_visual_tokens) == (2, 16384)
    assert not processor.video_processor.use_token_compression and processor.num_probes == 4
    # the tokenizer has room for none of the four
    ids = model.config.placeholder_token_ids
    assert processor.token_ids() == ids and set(ids.values()) == {49152, 49153, 49154, 49155}
    assert model.config.text_config.vocab_size == 49156 == len(processor.tokenizer)
    given, logits = run(model, processor, image=frames(1)[0])
    assert (given["input_ids"] == ids["image_probe_token_id"]).sum() == 4 and logits.isfinite().all()
    given, logits = run(model, processor, video=frames(3))
    assert (given["input_ids"] == ids["video_probe_token_id"]).sum() == 4 and logits.isfinite().all()
    pixels = torch.from_numpy(np.array(frames(3)[0])).float().permute(2, 0, 1) / 255
    normalised = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    assert torch.allclose(given["pixel_values_videos"][0], normalised[:, :2, :2].flatten(), atol=1e-5)


def test_its_own_code_with_its_files(tmp_path, tokenizer, source):
    state = renamed(source.state_dict(), OWN)
    config = own_config("llama", vocab_size=49152, max_frames=40)
    folder = write_folder(tmp_path / "own", config, state)
    own = PIXELS | {"image_processor_type": "Other", "min_tokens": 4, "max_tokens": 512}
    add_files(folder, tokenizer, preprocessor_config=own)
    model, report = from_pretrained_softmax(folder, num_probes=4, include_visual_tokens=False)
    video = report.processor.video_processor
    assert (video.max_frames, video.min_visual_tokens, video.max_visual_tokens) == (40, 4, 512)
    assert (list(video.image_mean), video.patch_size, video.merge_size) == (MEAN, 2, 2)
    assert not report.processor.include_visual_tokens
    given, logits = run(model, report.processor, video=frames(3))
    assert (given["input_ids"] == model.config.video_token_id).sum() == 0 and logits.isfinite().all()


def test_viscop(tmp_path, tokenizer, source):
    start = from_pretrained_softmax(source, num_probes=4, attention_variant="softmax").model
    state = {}
    names = {"attention.o_proj": "out_proj", "attention.q_proj": "q_proj", "attention.k_proj": "k_proj"}
    names |= {"attention.v_proj": "v_proj"}
    for name, tensor in renamed(start.state_dict(), OWN).items():
        if "interaction_modules" in name:
            for inner, own in names.items():
                name = name.replace(inner, own)
        state[name] = tensor[:49152] if len(tensor) > 49152 else tensor
    config = own_config("llama", program="viscop", vocab_size=49152, max_frames=40)
    config |= {"num_visual_probes": 4, "interaction_module": "cross_attention"}
    folder = add_files(write_folder(tmp_path / "viscop", config, state), tokenizer)
    model, report = convert_authors_checkpoint(folder, architecture="viscop")
    processor = report.processor
    assert (processor.image_processor.merge_size, processor.image_processor.patch_size) == (2, 2)
    assert list(processor.video_processor.image_mean) == [0.5] * 3 and processor.video_processor.max_frames == 40
    assert any("normalised by mean 0.5 and deviation 0.5" in note for note in report.notes)
    assert run(model, processor, image=frames(1)[0])[1].isfinite().all()


def test_tokens_that_are_there_are_taken(tmp_path, tokenizer, source):
    source.save_pretrained(tmp_path)
    add_files(tmp_path, tokenizer, preprocessor_config=PIXELS)
    own = AutoTokenizer.from_pretrained(tmp_path)
    own.add_tokens(["<|spare|>", "<|image_pad|>"], special_tokens=True)
    own.save_pretrained(tmp_path)
    model, _ = from_pretrained_softmax(tmp_path, num_probes=4)
    assert model.config.image_token_id == own.convert_tokens_to_ids("<|image_pad|>") == 49153


def test_a_folder_without_a_tokenizer(tmp_path, source):
    source.save_pretrained(tmp_path / "native")
    conversion = from_pretrained_softmax(tmp_path / "native", num_probes=4)
    assert "the source has no tokenizer: the model has no processor" in conversion.report.notes
    conversion.save_pretrained(tmp_path / "dna")
    assert AutoConfig.from_pretrained(tmp_path / "dna").model_type == "dna_video_llama3"
    assert not (tmp_path / "dna" / "processor_config.json").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (json.dumps(PIXELS | {"patch_size": 14}), "patches of 14 pixels, but its vision encoder of 2"),
        ("[]", "preprocessor_config.json of .* is no JSON object"),
        ("{", "preprocessor_config.json of .* is no valid JSON"),
        (json.dumps(PIXELS | {"fps": 0}), "cannot make a processor .* fps must be a number above 0"),
    ],
)
def test_refusals(tmp_path, tokenizer, source, content, expected):
    source.save_pretrained(tmp_path)
    add_files(tmp_path, tokenizer)
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(ConversionError, match=expected):
        from_pretrained_softmax(tmp_path, num_probes=4)
