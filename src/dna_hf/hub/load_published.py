"""Load a published model as its users do: in a process of its own, with transformers alone, without dna-hf.

usage: load_published.py REPOSITORY COMMIT AUTO_CLASS AUTO_PROCESSOR INPUT.safetensors OUTPUT.safetensors
"""

import sys
from pathlib import Path


# as on a machine where dna-hf is not installed; nor may the files beside this one be found
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
sys.modules["dna_hf"] = None  # type: ignore[assignment]

import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

# from their modules, which are there without torchvision; the names at the top level may not be
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # noqa: E402
from transformers.models.auto.processing_auto import AutoProcessor  # noqa: E402
from transformers.models.auto.video_processing_auto import AutoVideoProcessor  # noqa: E402


AUTO_PROCESSORS = {auto.__name__: auto for auto in (AutoImageProcessor, AutoProcessor, AutoVideoProcessor)}


def main(repository: str, commit: str, auto_class: str, auto_processor: str, source: str, target: str) -> None:
    """Write what the published model makes of the input, and its weights."""
    options = {"revision": commit, "trust_remote_code": True}
    model = getattr(transformers, auto_class).from_pretrained(repository, **options).eval()
    AUTO_PROCESSORS[auto_processor].from_pretrained(repository, **options)
    if not type(model).__module__.startswith("transformers_modules."):
        raise SystemExit(f"{type(model)} does not come from the repository")
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        output = model.float()(**load_file(source))
    names = ("logits", "reconstruction", "feature_maps", "last_hidden_state")
    value = next(output[name] for name in names if output.get(name) is not None)
    save_file(weights | {"output": (value[-1] if isinstance(value, tuple) else value).contiguous()}, target)


if __name__ == "__main__":
    main(*sys.argv[1:])
