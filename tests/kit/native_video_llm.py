"""Tiny video language models, and the files that other programs would make of them."""

import json

import torch
from safetensors.torch import save_file
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

from tests.kit.models import moved


PATCH, WIDTH, HEADS, LAYERS, VOCABULARY = 2, 16, 2, 3, 50
IMAGE, VIDEO = 40, 41
VISION = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 24,
    "patch_size": PATCH,
}
GRID, MERGE = (2, 4, 4), 2
# from transformers' names to those of VideoLLaMA3's own code, and of VisCoP
OWN = {
    "model.vision_model.": "model.vision_encoder.",
    "model.projector.": "model.mm_projector.",
    "model.probe_projector.": "model.mm_projector_visual_probes.",
    "model.language_model.": "model.",
}
VISCOP = OWN | {"model.vision_model.": "model.vision_encoder.vision_encoder."}


def scatter(model, seed=0):
    """Move every parameter from its initial value, so that no two tensors are alike."""
    torch.manual_seed(seed)
    return moved(model, 0.1)


def text_config(text="qwen2", vocabulary=VOCABULARY, **fields):
    config = {
        "model_type": text,
        "vocab_size": vocabulary,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return config | fields


def native_model(text="qwen2", tied=False, **fields):
    """A small VideoLLaMA3 of transformers, the same one at every call."""
    torch.manual_seed(0)
    config = VideoLlama3Config(
        text_config=text_config(text, **fields),
        vision_config=VISION,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        tie_word_embeddings=tied,
    )
    return scatter(VideoLlama3ForConditionalGeneration(config))


def inputs(image_id=IMAGE, video_id=VIDEO, video=False):
    """A text with an image or a video in it, as the models take it."""
    frames, rows, columns = GRID
    pixels = torch.randn(frames * rows * columns, 3 * PATCH**2, generator=torch.Generator().manual_seed(1))
    tokens = frames * rows * columns // MERGE**2
    ids = torch.tensor([[5, 6, *[video_id if video else image_id] * tokens, 7, 8, 9]])
    end, kind = ("_videos", "video") if video else ("", "image")
    visual = {f"pixel_values{end}": pixels, f"{kind}_grid_thw": torch.tensor([GRID])}
    return {"input_ids": ids, **visual, f"{kind}_merge_sizes": torch.tensor([MERGE])}


def renamed(state, prefixes):
    """A state dict with other prefixes."""
    names = {}
    for name, tensor in state.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        names[prefixes.get(prefix, "") + name.removeprefix(prefix)] = tensor.clone()
    return names


def own_config(text="qwen2", program="videollama3", vision=True, **fields):
    """`config.json` of VideoLLaMA3's own code, or of VisCoP."""
    config = {**text_config(text), "model_type": f"{program}_{text}", "rope_theta": 10000.0, "rope_scaling": None}
    config |= {"architectures": ["Other"], "auto_map": {}, "torch_dtype": "float32", "use_token_compression": True}
    config |= {"image_token_index": 44, "vision_encoder": "someone/SigLIP-NaViT", "mm_projector_type": "mlp2x_gelu"}
    if vision:
        config["vision_encoder_config"] = VISION | {"model_type": f"{program}_vision_encoder"}
    return config | fields


def write_folder(folder, config, state, files=("model.safetensors",)):
    """A checkpoint folder: of several files, the tensors go into them in turn, and an index says where."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    shards = {file: {} for file in files}
    for index, (name, tensor) in enumerate(state.items()):
        shards[files[index % len(files)]][name] = tensor.contiguous().clone()
    for file, tensors in shards.items():
        save_file(tensors, folder / file) if file.endswith("safetensors") else torch.save(tensors, folder / file)
    if len(files) > 1:
        places = {name: file for file, tensors in shards.items() for name in tensors}
        suffix = "model.safetensors" if files[0].endswith("safetensors") else "pytorch_model.bin"
        (folder / f"{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder
