"""A classifier small enough for tests, on disk."""

import torch

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.data.arguments import ImageDataArguments
from dna_hf.data.images import image_processor


def save_classifier(folder, names, seed=0, **fields):
    """Write an untrained classifier of images of 28x28 pixels whose classes have these names."""
    torch.manual_seed(seed)
    sizes = {"image_size": 28, "patch_size": 14, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = DnAViTConfig(
        **sizes,
        intermediate_size=16,
        initializer_range=0.5,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
        **fields,
    )
    DnAViTForImageClassification(config).save_pretrained(folder)
    image_processor(ImageDataArguments(), (28, 28)).save_pretrained(folder)
    return folder
