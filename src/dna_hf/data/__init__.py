"""Images and labels: any `datasets` source, read, augmented and processed into tensors."""

from .arguments import DataArguments
from .images import ImageProcessor, TrainingAugmentation, image_processor, read_image_file, torch_dataset
from .sources import EMBEDDED, DataError, LabelledImages, load_split, load_train_and_eval


__all__ = [
    "EMBEDDED",
    "DataArguments",
    "DataError",
    "ImageProcessor",
    "LabelledImages",
    "TrainingAugmentation",
    "image_processor",
    "load_split",
    "load_train_and_eval",
    "read_image_file",
    "torch_dataset",
]
