"""From the checkpoints people have to DnA models.

Of images: transformers' ViT, DeiT and DINOv2, timm, and the authors' files. Of videos: transformers' TimeSformer, the
authors' files, and image models. Of video language models: VideoLLaMA3, transformers' or as its own code saves it, and
the authors' files.
"""

from .authors import convert_authors_checkpoint, load_authors_checkpoint
from .authors_export import export_authors_checkpoint
from .errors import ConversionError
from .image_to_video import from_image_model
from .options import Options
from .pretrained import from_pretrained_softmax
from .report import Conversion, ConversionReport, TensorRecord


__all__ = [
    "Conversion",
    "ConversionError",
    "ConversionReport",
    "Options",
    "TensorRecord",
    "convert_authors_checkpoint",
    "export_authors_checkpoint",
    "from_image_model",
    "from_pretrained_softmax",
    "load_authors_checkpoint",
]
