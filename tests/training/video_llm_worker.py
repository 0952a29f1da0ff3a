"""Run by `test_video_llm.py`: train one step as two processes, then shard the model among them.

python -m tests.training.video_llm_worker SECTIONS.json PORT
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import yaml
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

# before there are two processes, so that what is slow is imported once
from dna_hf.training.adapter import save_adapter
from tests.kit.paths import ROOT
from tests.kit.video_llm_training import micro_batch, ready_to_train, save_gradients, save_gradients_of_one_step


def wrapped_classes():
    """What the shipped configuration of accelerate divides, with the layers of the tiny language model."""
    content = yaml.safe_load((ROOT / "configs" / "accelerate" / "fsdp2_video_llm.yaml").read_text())
    names = content["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"]
    return names.replace("Qwen2DecoderLayer", "LlamaDecoderLayer").split(",")


def shard(rank, sections):
    """Gradients of a model that is divided by FSDP2, of a batch of which each process has a half, and its adapter."""
    trainer = ready_to_train(sections)
    model = trainer.model
    mesh, classes = init_device_mesh("cpu", (2,)), wrapped_classes()
    for module in model.modules():
        if type(module).__name__ in classes:
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model.gradient_checkpointing_enable()
    # processes average their gradients
    loss = (
        2 * model.train()(**micro_batch(trainer, [2 * rank, 2 * rank + 1]), num_items_in_batch=torch.tensor(50)).loss
    )
    loss.backward()
    gradients = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if rank == 0:
        save_gradients(gradients, f"{trainer.args.output_dir}_sharded")
        save_adapter(f"{trainer.args.output_dir}_sharded", model, trainer.description, trainer.lora_config, state)


def work(rank, port, sections):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    assert save_gradients_of_one_step(sections).world_size == 2
    shard(rank, sections)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = json.loads(Path(sys.argv[1]).read_text())
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, sys.argv[2], given)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode for process in processes))
