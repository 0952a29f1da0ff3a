"""The published room: every file here travels with a checkpoint.

The files import torch, transformers, the standard library and each other by a one-dot import of a sibling, nothing
else: that is what transformers can copy into a checkpoint folder and load again without this package. This
`__init__` stays behind; it registers the models with the Auto classes, for loading and for saving.
"""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForImageTextToText,
    AutoModelForMaskedImageModeling,
    AutoModelForMultimodalLM,
    AutoModelForVideoClassification,
    AutoProcessor,
)

# from their modules, which are there without torchvision; the names at the top level may not be
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .configuration_dna_timesformer import DnATimesformerConfig
from .configuration_dna_video_llama3 import DnAVideoLlama3Config, DnAVideoLlama3VisionConfig
from .configuration_dna_vit import DnAViTConfig
from .image_processing_dna_video_llama3 import DnAVideoLlama3ImageProcessor
from .modeling_dna_timesformer import (
    DnATimesformerForVideoClassification,
    DnATimesformerModel,
    DnATimesformerPreTrainedModel,
)
from .modeling_dna_video_llama3 import (
    DnAVideoLlama3ForConditionalGeneration,
    DnAVideoLlama3Model,
    DnAVideoLlama3VisionModel,
)
from .modeling_dna_vit import (
    DnAViTBackbone,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
    DnAViTPreTrainedModel,
)
from .processing_dna_video_llama3 import DnAVideoLlama3Processor
from .video_processing_dna_timesformer import DnATimesformerVideoProcessor
from .video_processing_dna_video_llama3 import DnAVideoLlama3VideoProcessor


for config_class, models in (
    (
        DnAViTConfig,
        {
            AutoModel: DnAViTModel,
            AutoModelForImageClassification: DnAViTForImageClassification,
            AutoModelForMaskedImageModeling: DnAViTForMaskedImageModeling,
            AutoBackbone: DnAViTBackbone,
        },
    ),
    (
        DnATimesformerConfig,
        {
            AutoModel: DnATimesformerModel,
            AutoModelForVideoClassification: DnATimesformerForVideoClassification,
        },
    ),
    (DnAVideoLlama3VisionConfig, {AutoModel: DnAVideoLlama3VisionModel}),
    (
        DnAVideoLlama3Config,
        {AutoModel: DnAVideoLlama3Model, AutoModelForImageTextToText: DnAVideoLlama3ForConditionalGeneration},
    ),
):
    AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    config_class.register_for_auto_class()
    for auto_class, model_class in models.items():
        auto_class.register(config_class, model_class, exist_ok=True)
        model_class.register_for_auto_class(auto_class.__name__)  # type: ignore[attr-defined]
# what `pipeline("any-to-any")` looks for
AutoModelForMultimodalLM.register(DnAVideoLlama3Config, DnAVideoLlama3ForConditionalGeneration, exist_ok=True)
AutoVideoProcessor.register(DnATimesformerConfig, DnATimesformerVideoProcessor, exist_ok=True)
AutoProcessor.register(DnAVideoLlama3Config, DnAVideoLlama3Processor, exist_ok=True)
AutoImageProcessor.register(
    DnAVideoLlama3Config, image_processor_classes={"pil": DnAVideoLlama3ImageProcessor}, exist_ok=True
)
AutoVideoProcessor.register(DnAVideoLlama3Config, DnAVideoLlama3VideoProcessor, exist_ok=True)
DnATimesformerVideoProcessor.register_for_auto_class("AutoVideoProcessor")
DnAVideoLlama3ImageProcessor.register_for_auto_class("AutoImageProcessor")
DnAVideoLlama3VideoProcessor.register_for_auto_class("AutoVideoProcessor")
DnAVideoLlama3Processor.register_for_auto_class("AutoProcessor")

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
]
