"""`dna-hf train` for launchers that want a script.

torchrun --nproc_per_node 2 scripts/train.py vit_tiny_fashion_mnist

Most launchers take a module, too: torchrun --nproc_per_node 2 -m dna_hf train vit_tiny_fashion_mnist
"""

import sys

from dna_hf.cli import main


if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
