"""A video LLM trained by one process, and by two that accelerate starts, which must come to the same."""

import json
import shutil

import torch
import yaml

from dna_hf.records.checkpoint_records import read_training
from dna_hf.records.digest import weights_digest
from dna_hf.training.adapter import read_tensors
from dna_hf.training.config_file import run_config
from dna_hf.training.video_llm import train_video_llm
from tests.kit.video_llm_training import save_base, save_conversations, tiny_sections


# of the samples of a step, each of two processes has a half
EACH = ("--per_device_train_batch_size", "2")


def train_in_one_process(folder, data=(), **options):
    """Write `run.yaml`, train by it, and return the folder of the adapter."""
    dataset = save_conversations(folder)
    sections = tiny_sections(save_base(folder / "base"), dataset, folder / "one")
    # nothing random, and steps that do not depend on the signs of gradients that are nothing but rounding
    sections["training"] |= {"lora_dropout": 0.0, "adam_epsilon": 1e-3, "save_steps": 2, "save_total_limit": 2}
    sections["training"] |= {"per_device_train_batch_size": 4} | options
    sections["data"] |= dict(data)
    (folder / "run.yaml").write_text(yaml.safe_dump(sections))
    train_video_llm(run_config(sections))
    return folder / "one"


def logged(folder):
    """The losses of a run, in training and evaluation, and its scales of the negative branch."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [
        [entry[name] for entry in history if name in entry] for name in ("loss", "eval_loss", "negative_scale/mean")
    ]


def assert_same_training(found, expected):
    """The run in one folder is that in another, and has left a whole adapter."""
    torch.testing.assert_close(logged(found), logged(expected), rtol=1e-5, atol=1e-5)
    tensors = read_tensors(found)
    torch.testing.assert_close(tensors, read_tensors(expected), rtol=0, atol=1e-5)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    record = read_training(found)
    record.verify(weights_digest(tensors))
    assert record.processes == 2


def forget_the_end(folder):
    """Leave of a run what it had written at its first checkpoint, in the middle."""
    for path in (*folder.glob("checkpoint-4"), folder / "lora"):
        shutil.rmtree(path)
    for path in folder.glob("dna_adapter.*"):
        path.unlink()
