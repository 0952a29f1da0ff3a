"""The command line: `dna-hf VERB`, a file for each verb with its options (`add`) beside its action (`run`).

What a user did wrong ends in one sentence on stderr and exit code 2; anything else is a bug and shows its traceback.
Nothing heavy is imported before the words are understood, and this file imports next to nothing, so that Ctrl-C has
an answer from the start.
"""

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after `dna-hf`; by default those of this process.

    Returns:
        The exit code: 0; 2 for a mistake of the user; 130 after Ctrl-C; 141 where nobody reads the output any more.
    """
    try:
        from .dispatch import dispatch

        return dispatch(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        print("\ndna-hf: interrupted; nothing was written.", file=sys.stderr)
        return 130
