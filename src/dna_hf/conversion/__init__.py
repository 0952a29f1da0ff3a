"""From the checkpoints people have to DnA models: transformers' ViT, DeiT and DINOv2, timm, and the authors' files."""

from .authors import convert_authors_checkpoint, export_authors_checkpoint, load_authors_checkpoint
from .errors import ConversionError
from .pretrained import from_pretrained_softmax
from .report import Conversion, ConversionReport, TensorRecord


__all__ = [
    "Conversion",
    "ConversionError",
    "ConversionReport",
    "TensorRecord",
    "convert_authors_checkpoint",
    "export_authors_checkpoint",
    "from_pretrained_softmax",
    "load_authors_checkpoint",
]
