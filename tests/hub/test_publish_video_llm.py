"""Publishing a video language model: model, processor, chat template and code. Against a Hub on loopback."""

import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from dna_hf.hub import PublishError, publish
from tests.kit.fake_hub import FakeHub
from tests.kit.fresh_process import run_fresh
from tests.kit.hub_client import REPO, client_of
from tests.kit.video_llm import tiny_model, tiny_processor


CODE = {
    *("attention_variants.py", "configuration_dna.py", "layers_dna.py"),
    *("configuration_dna_video_llama3.py", "modeling_dna_video_llama3.py", "processing_dna_video_llama3.py"),
    *("image_processing_dna_video_llama3.py", "video_processing_dna_video_llama3.py", "video_decoding.py"),
    *("chat_dna_video_llama3.py", "placeholders_dna_video_llama3.py", "processing_options.py"),
    *("image_depth.py", "video_inputs.py", "video_metadata.py"),
}
USE = """
import os
import sys
from transformers import pipeline

name, picture, expected = sys.argv[1:]
answer = pipeline("image-text-to-text", model=name, trust_remote_code=True)
assert type(answer.model).__module__.startswith("transformers_modules."), type(answer.model)
content = [{"type": "image", "image": picture}, {"type": "text", "text": "What is it?"}]
messages = [{"role": "user", "content": content}]
(found,) = answer(text=messages, return_full_text=False, generate_kwargs={"max_new_tokens": 6, "do_sample": False})
assert found["generated_text"].encode().hex() == expected, (found, expected)
print("all is well")
"""


@pytest.fixture
def checkpoint(tmp_path):
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_published_and_used_by_others(checkpoint, tmp_path):
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (56, 84, 3), dtype=np.uint8)).save(picture)
    processor = tiny_processor()
    content = [{"type": "image", "image": str(picture)}, {"type": "text", "text": "What is it?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = tiny_model(processor).generate(**inputs, max_new_tokens=6, do_sample=False)
    expected = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    with FakeHub() as hub, client_of(hub, tmp_path / "client"):
        published = publish(checkpoint, REPO)
        assert published.max_difference <= 1e-5
        assert {name for name in published.files if name.endswith(".py")} == CODE
        assert {"chat_template.jinja", "processor_config.json", "tokenizer.json"} < set(published.files)
        card = ModelCard(published.card)
        assert card.data.pipeline_tag == "video-text-to-text" and "video" in card.data.tags
        assert "| which reads | visual tokens and probes |" in card.text
        assert "| probes of an image or video | 4 |" in card.text
        assert "| α over all layers and heads | mean" in card.text
        environment = hub.environment(tmp_path / "others")
        printed = run_fresh(USE, tmp_path, REPO, picture, expected.encode().hex(), environment=environment)
    assert "all is well" in printed


def test_incomplete_folders_are_refused(checkpoint, tmp_path):
    (checkpoint / "processor_config.json").unlink()
    with pytest.raises(PublishError, match="save the processor of the video language model in it"):
        publish(checkpoint, REPO, dry_run=True)
    shutil.rmtree(checkpoint)
    tiny_model(tiny_processor()).model.vision_model.save_pretrained(checkpoint)
    with pytest.raises(PublishError, match="a part of a model that has no processor .* give the whole model"):
        publish(checkpoint, REPO, dry_run=True)
