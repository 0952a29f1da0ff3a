"""`python -m dna_hf.cli` is `dna-hf`."""

import sys

from . import main


sys.exit(main())
