"""Denoising Attention (DnA) for the Hugging Face ecosystem.

Importing the package registers its models with transformers' Auto classes: at once where transformers is imported
already, else together with it. Everything is imported where it is used, so that `import dna_hf` costs nothing.
"""

from __future__ import annotations

import importlib
import sys


# the module typing takes as long to import as all the rest
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .models import (
        DnATimesformerConfig,
        DnATimesformerForVideoClassification,
        DnATimesformerModel,
        DnATimesformerPreTrainedModel,
        DnATimesformerVideoProcessor,
        DnAVideoLlama3Config,
        DnAVideoLlama3ForConditionalGeneration,
        DnAVideoLlama3ImageProcessor,
        DnAVideoLlama3Model,
        DnAVideoLlama3Processor,
        DnAVideoLlama3VideoProcessor,
        DnAVideoLlama3VisionConfig,
        DnAVideoLlama3VisionModel,
        DnAViTBackbone,
        DnAViTConfig,
        DnAViTForImageClassification,
        DnAViTForMaskedImageModeling,
        DnAViTModel,
        DnAViTPreTrainedModel,
    )


__version__ = "0.1.0"

__all__ = [
    "DnATimesformerConfig",
    "DnATimesformerForVideoClassification",
    "DnATimesformerModel",
    "DnATimesformerPreTrainedModel",
    "DnATimesformerVideoProcessor",
    "DnAVideoLlama3Config",
    "DnAVideoLlama3ForConditionalGeneration",
    "DnAVideoLlama3ImageProcessor",
    "DnAVideoLlama3Model",
    "DnAVideoLlama3Processor",
    "DnAVideoLlama3VideoProcessor",
    "DnAVideoLlama3VisionConfig",
    "DnAVideoLlama3VisionModel",
    "DnAViTBackbone",
    "DnAViTConfig",
    "DnAViTForImageClassification",
    "DnAViTForMaskedImageModeling",
    "DnAViTModel",
    "DnAViTPreTrainedModel",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import the models when the first of them is asked for."""
    if name != "models" and name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # transformers first: of threads that begin at once, all then wait for the one that registers
    importlib.import_module("transformers")
    models = importlib.import_module(".models", __name__)
    return models if name == "models" else getattr(models, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "models"})


class _Registration:
    """Registers the models as soon as transformers is imported, before anyone can ask an Auto class for them.

    Python asks the finders of `sys.meta_path` for a module. This one passes on what the others find, for transformers
    with a loader that also imports our models, and then is gone.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Where transformers is, as the other finders say; nothing for any other module."""
        if name != "transformers":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: Any) -> None:
            loader.exec_module = execute
            execute(module)
            if module.__name__ == "transformers" and self in sys.meta_path:
                importlib.import_module(".models", __name__)
                sys.meta_path.remove(self)

        loader.exec_module = exec_module


if "transformers" in sys.modules:
    importlib.import_module(".models", __name__)
else:
    sys.meta_path.insert(0, _Registration())
