"""Denoising Attention (DnA) for the Hugging Face ecosystem.

Importing the package registers its models with transformers' Auto classes; everything heavier than that (data sets,
training, evaluation) is imported where it is used.
"""

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


__version__ = "0.1.0.dev0"

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
