"""A video LLM small enough for tests, and conversations about a few pictures."""

import json

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer, TrainerCallback

from dna_hf.models.image_processing_dna_video_llama3 import DnAVideoLlama3ImageProcessor
from dna_hf.models.processing_dna_video_llama3 import DnAVideoLlama3Processor
from dna_hf.models.video_processing_dna_video_llama3 import DnAVideoLlama3VideoProcessor
from dna_hf.training.config_file import run_config
from dna_hf.training.video_llm import build_trainer, load_conversations
from tests.kit import video_llm
from tests.kit.paths import shared_path


TEXT = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "attention_dropout": 0.0,
    "initializer_range": 0.1,
    "tie_word_embeddings": True,
    "pad_token_id": None,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_probes": 4,
    "initializer_range": 0.2,
    "attention_variant": "dna",
}
# of the groups of the released recipe
RATES = {
    "lora": 1e-2,
    "projector": 1e-2,
    "probe_projector": 1e-2,
    "interaction_modules": 1e-2,
    "visual_probes": 2e-2,
}


def tiny_processor():
    """The processor of the tiny model; images and frames of few tokens."""
    tokenizer = AutoTokenizer.from_pretrained(shared_path("data", "smollm2-tokenizer"))
    videos = DnAVideoLlama3VideoProcessor(max_frames=4, max_visual_tokens=64, min_visual_tokens=4)
    return DnAVideoLlama3Processor(
        DnAVideoLlama3ImageProcessor(merge_size=2), tokenizer, videos, num_probes=VISION["num_probes"]
    )


def tiny_model(processor, seed=0, text=(), vision=()):
    """A fresh model that takes what the processor makes."""
    return video_llm.tiny_model(processor, TEXT | dict(text), VISION | dict(vision), seed, spread=0)


def save_base(folder, seed=0, **fields):
    """A whole checkpoint to start from."""
    processor = tiny_processor()
    tiny_model(processor, seed, **fields).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def save_conversations(folder, count=8):
    """Conversations about pictures of noise and one without any; answers differ in length."""
    random = np.random.default_rng(0)
    samples = []
    for number in range(count):
        name = f"{number}.png"
        Image.fromarray(random.integers(0, 256, (56, 56, 3), dtype=np.uint8)).save(folder / name)
        turns = [
            {"from": "human", "value": "<image>\nWhich number is it?"},
            {"from": "gpt", "value": " ".join(["It is", *map(str, range(number + 1))])},
        ]
        samples.append({"id": f"n{number}", "image": name, "conversations": turns})
    path = folder / "train.json"
    path.write_text(json.dumps(samples))
    return path


def tiny_sections(base, dataset, output_dir, rates=None):
    """The sections of a tiny run."""
    return {
        "model": {"model_type": "dna_video_llama3", "checkpoint": str(base)},
        "data": {"dataset": str(dataset), "max_visual_tokens": 64, "model_max_length": 512},
        "training": {
            "output_dir": str(output_dir),
            "learning_rates": dict(rates or RATES),
            "lora_rank": 4,
            "lora_alpha": 8,
            "lora_dropout": 0.1,
            "num_train_epochs": 2,
            "per_device_train_batch_size": 2,
            "logging_steps": 1,
            "disable_tqdm": True,
            "dataloader_pin_memory": False,
            "use_cpu": True,
        },
    }


def tiny_run(base, dataset, output_dir, rates=None, **overrides):
    """A tiny run, checked."""
    return run_config(tiny_sections(base, dataset, output_dir, rates), overrides)


def save_gradients(gradients, output_dir):
    """Write gradients to a file beside a folder, whose name ends in `.st`."""
    save_file({name.removeprefix("module."): gradient for name, gradient in gradients.items()}, f"{output_dir}.st")


class _SaveGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        gradients = {name: p.grad.clone() for name, p in kwargs["model"].named_parameters() if p.grad is not None}
        if state.is_world_process_zero:
            save_gradients(gradients, args.output_dir)


def ready_to_train(sections):
    """The Trainer of one step without dropout. Its model is always the same, and no gradient of it vanishes."""
    run = run_config(sections, {"max_steps": 1, "max_grad_norm": 0, "lora_dropout": 0.0, "save_strategy": "no"})
    trainer = build_trainer(run, *load_conversations(run))
    # the gradients of LoRA's first factors are zero as long as the second ones are
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            if ".lora_" in name or "visual_probes" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return trainer


def micro_batch(trainer, rows):
    """A batch of samples by their rows in the file."""
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    del batch["rows"]
    return batch


def save_gradients_of_one_step(sections):
    """Train one step and write its gradients to the file `output_dir` and `.st`; returns the training arguments."""
    trainer = ready_to_train(sections)
    trainer.add_callback(_SaveGradients())
    trainer.train()
    return trainer.args


def reasons_in(bad_list):
    """Why samples could not be used, by the file that lists them; each reason once."""
    return list(dict.fromkeys(json.loads(line)["error"] for line in bad_list.read_text(encoding="utf-8").splitlines()))
