"""The start of a script for a process that cannot import the package, installed or not, on the path or not."""

WITHOUT_PACKAGE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "dna_hf":
            raise ImportError("the package is blocked")

sys.meta_path.insert(0, Block())
try:
    import dna_hf
except ImportError:
    pass
else:
    raise AssertionError("the package can be imported")
"""
