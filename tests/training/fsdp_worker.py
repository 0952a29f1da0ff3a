"""What every process of `test_fsdp.py` runs: shard a model, train it, write down what came of it.

accelerate launch --config_file CONFIG.yaml tests/training/fsdp_worker.py FOLDER
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from dna_hf.models import DnAViTConfig, DnAViTForImageClassification


MODEL = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_labels": 5,
    "drop_path_rate": 0.0,
    "layer_scale_init_value": 0.5,
}

# name: (fields of the configuration, dtype). Three heads on two processes are shards of two and one, one head of one
# and none.
CASES = {
    "dna": ({}, torch.float64),
    "dna_shared_value": ({"attention_variant": "dna_shared_value"}, torch.float64),
    "softmax": ({"attention_variant": "softmax"}, torch.float64),
    "differential": ({"attention_variant": "differential"}, torch.float64),
    "cog": ({"attention_variant": "cog", "cog_softmax_layers": []}, torch.float64),
    "one_head": ({"num_attention_heads": 1}, torch.float64),
    "float32": ({}, torch.float32),
    "accelerate": ({}, torch.float64),
}
STEPS = 3


def build(case):
    """The model of a case, the same in every process, with no parameter at a value where gradients vanish."""
    torch.manual_seed(0)
    fields, dtype = CASES[case]
    model = DnAViTForImageClassification(DnAViTConfig(**MODEL | fields)).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def images(case):
    """The batch of all processes together: images (8, 3, 16, 16) and labels (8)."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(8, 3, 16, 16, generator=generator, dtype=torch.float64)
    return pixels.to(CASES[case][1]), torch.randint(0, 5, (8,), generator=generator)


def optimizer_of(model):
    # softmax does not see the bias of the keys, its gradient is rounding: with a small epsilon, AdamW would amplify it
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05, eps=1e-3)


def steps(model, optimizer, pixels, labels):
    """Train. Returns the loss of every step and the gradients of the first."""
    losses, gradients = [], {}
    for step in range(STEPS):
        loss = model(pixels, labels=labels).loss
        loss.backward()
        losses.append(loss.detach())
        if step == 0:
            gradients = {name: whole(parameter.grad).clone() for name, parameter in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
    return torch.stack(losses), gradients


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard(model):
    """Shard as `_no_split_modules` says: these modules, and the rest at the root."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in list(model.modules()):
        if type(module).__name__ in model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def run_case(case, folder, accelerator):
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = build(case)
    optimizer = optimizer_of(model)
    if case == "accelerate":
        model, optimizer = accelerator.prepare(model, optimizer)
    else:
        shard(model)
        optimizer = optimizer_of(model)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    pixels, labels = images(case)
    losses, gradients = steps(model, optimizer, pixels[rank::world_size], labels[rank::world_size])
    dist.all_reduce(losses)
    shards = {name: tuple(parameter.to_local().shape) for name, parameter in model.named_parameters()}
    shards_of_all = [None] * world_size
    dist.all_gather_object(shards_of_all, shards)
    with torch.no_grad():
        logits = model(pixels).logits
    results = {
        "losses": losses / world_size,
        "gradients": gradients,
        "weights": {name: whole(parameter.detach()) for name, parameter in model.named_parameters()},
        "shards": shards_of_all,
        "units": [name for name, module in model.named_modules() if isinstance(module, FSDPModule)],
        "logits": logits,
    }
    if rank == 0:
        torch.save(results, folder / f"{case}.pt")
    if case == "float32":
        dcp.save(get_model_state_dict(model), checkpoint_id=str(folder / "distributed"))
        gathered = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        model.save_pretrained(folder / "whole", state_dict=gathered, is_main_process=rank == 0)


if __name__ == "__main__":
    # accelerate shards on GPUs only, on the CPU it falls back to copies of the model
    from tests.training.fsdp_on_cpu import pretend_to_have_gpus

    pretend_to_have_gpus()
    from accelerate import Accelerator

    accelerator = Accelerator()
    torch.set_num_threads(1)
    for name in CASES:
        run_case(name, Path(sys.argv[1]), accelerator)
    dist.destroy_process_group()
    # all is written; threads that torch leaves behind can abort a process that ends while they run
    sys.stdout.flush()
    os._exit(0)
