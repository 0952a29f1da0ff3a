"""`scripts/train.py` with parameters sharded on the CPU.

accelerate shards on GPUs only: on the CPU it takes a configuration for FSDP and trains copies of the model. The one
thing that is replaced here is its choice of device and backend; everything else is what runs on GPUs.

accelerate launch --config_file CONFIG.yaml tests/training/fsdp_on_cpu.py CONFIG.yaml
"""

import runpy
from pathlib import Path

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType


def pretend_to_have_gpus():
    PartialState._prepare_backend = lambda self, *args, **kwargs: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))


if __name__ == "__main__":
    pretend_to_have_gpus()
    runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "train.py"), run_name="__main__")
