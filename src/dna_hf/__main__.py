"""`python -m dna_hf` is `dna-hf`."""

import sys

from .cli import main


sys.exit(main())
