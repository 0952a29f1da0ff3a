"""`dna-hf train` for launchers that want a script.

torchrun --nproc_per_node 2 scripts/train.py configs/vit_tiny_fashion_mnist.yaml
accelerate launch scripts/train.py configs/vit_tiny_fashion_mnist.yaml
"""

import sys

from dna_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
