"""A run small enough for tests."""

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


def tiny_run(output_dir, **overrides):
    """The tiny run, writing to a folder."""
    return run_config(SECTIONS, {"output_dir": str(output_dir)} | overrides)
