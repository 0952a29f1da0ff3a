"""A run small enough for tests."""

import pytest
from transformers import TrainerCallback

from dna_hf.training import classification as training
from dna_hf.training.config_file import run_config


SECTIONS = {
    "model": {
        "attention_variant": "dna",
        "image_size": 28,
        "patch_size": 14,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "hidden_dropout_prob": 0.1,
        "drop_path_rate": 0.2,
    },
    "data": {"max_train_samples": 40, "max_eval_samples": 20},
    "training": {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "save_steps": 7,
        "eval_strategy": "epoch",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": True,
    },
}


def plain_sections():
    """A run without randomness, of which two processes with half the batch each make the same as one."""
    sections = {name: dict(section) for name, section in SECTIONS.items()}
    sections["model"] |= {"drop_path_rate": 0.0, "hidden_dropout_prob": 0.0}
    sections["data"] |= {"crop_scale": [1.0, 1.0], "flip_probability": 0.0}
    # more than one group of learning rates, scales in the log, and steps after a checkpoint
    sections["training"] |= {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "layer_decay": 0.8}
    # as in fsdp_worker.py
    sections["training"]["adam_epsilon"] = 1e-3
    return sections


def tiny_run(output_dir, **overrides):
    """The tiny run, writing to a folder."""
    return run_config(SECTIONS, {"output_dir": str(output_dir)} | overrides)


class Interrupted(Exception):
    """In the place of the power failure."""


class StopAfter(TrainerCallback):
    """Raises after a step."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Interrupted


def interrupt(monkeypatch, folder, stop, options):
    """Train until a step, as if the machine had been switched off there."""
    build = training.build_trainer

    def interrupted(*args, **kwargs):
        trainer = build(*args, **kwargs)
        trainer.add_callback(StopAfter(stop))
        return trainer

    with monkeypatch.context() as patch:
        patch.setattr(training, "build_trainer", interrupted)
        with pytest.raises(Interrupted):
            training.train_classifier(tiny_run(folder, **options))
