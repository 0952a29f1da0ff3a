"""Run by `test_video_llm.py`: train one step as two processes.

python tests/training/video_llm_worker.py SECTIONS.json PORT
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

import torch


# before there are two processes, so that what is slow is imported once
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training.tiny_video_llm import save_gradients_of_one_step  # noqa: E402


def work(rank, port, sections):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    assert save_gradients_of_one_step(sections).training.world_size == 2
    torch.distributed.destroy_process_group()


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
