"""Render the example model cards of ViT-B/16 in all variants, and of the DnA TimeSformer, into model_cards/.

They describe architectures without weights: sizes are counted, the paper's figures are marked as reported.
"""

from pathlib import Path

import torch

from dna_hf import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnAViTConfig,
    DnAViTForImageClassification,
)
from dna_hf.hub.model_card import ReportedFigure, model_card
from dna_hf.models import DnATimesformerVideoProcessor


FOLDER = Path(__file__).resolve().parents[1] / "model_cards"
SOURCE = "the authors of Denoising Attention, for ViT-B/16 trained on ImageNet-1k"
# top-1 and top-5 in percent on the validation and the test set, as reported
REPORTED = {
    "softmax": (81.1, 95.6, 81.1, 95.6),
    "differential": (81.4, 95.7, 81.5, 95.6),
    "cog": (81.4, 95.7, 81.5, 95.7),
    "dna": (81.9, 95.9, 81.9, 95.8),
}
NAMES = ("validation, top-1", "validation, top-5", "test, top-1", "test, top-5")
THROUGHPUT = "909.1 images/s"
# the paper states no figure on Kinetics-400
VIDEO_CARD = "timesformer-base-patch16-224-kinetics400-dna"


def render(variant: str) -> str:
    """The card of one variant."""
    config = DnAViTConfig(attention_variant=variant, num_labels=1000, architectures=["DnAViTForImageClassification"])
    with torch.device("meta"):
        model = DnAViTForImageClassification(config)
    reported = [
        ReportedFigure(f"ImageNet-1k {name}", f"{value} %", SOURCE)
        for name, value in zip(NAMES, REPORTED.get(variant, ()), strict=False)
    ]
    if reported:
        reported.append(ReportedFigure("throughput (the same figure for all variants)", THROUGHPUT, SOURCE))
    return str(model_card(model, f"your-name/{file_name(variant)}", reported=reported))


def render_video() -> str:
    """The card of the authors' model of videos, as they pretrain it on Kinetics-400."""
    config = DnATimesformerConfig(num_labels=400, architectures=["DnATimesformerForVideoClassification"])
    with torch.device("meta"):
        model = DnATimesformerForVideoClassification(config)
    processor = DnATimesformerVideoProcessor(sampling="released")
    return str(model_card(model, f"your-name/{VIDEO_CARD}", processor=processor))


def file_name(variant: str) -> str:
    """Name of a variant's card, without suffix."""
    return f"vit-base-patch16-224-{variant.replace('_', '-')}"


def main() -> None:
    """Write all cards."""
    for variant in ("dna", "dna_shared_value", "softmax", "differential", "cog"):
        (FOLDER / f"{file_name(variant)}.md").write_text(render(variant), encoding="utf-8")
    (FOLDER / f"{VIDEO_CARD}.md").write_text(render_video(), encoding="utf-8")


if __name__ == "__main__":
    main()
