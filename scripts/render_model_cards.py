"""Render the example model cards of ViT-B/16 in all variants, of the DnA TimeSformer and of the video language model.

They go into model_cards/ and describe architectures without weights: sizes are counted, the paper's figures are marked
as reported.
"""

from pathlib import Path

import torch

from dna_hf import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnAVideoLlama3Config,
    DnAVideoLlama3ForConditionalGeneration,
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
# the language model of VideoLLaMA3-7B, Qwen2.5-7B
LANGUAGE_MODEL = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
VIDEO_LLM_SOURCE = "the authors of Denoising Attention, for VideoLLaMA3-7B fine-tuned on egocentric videos"
# in percent on Ego-in-Exo PerceptionMCQ, as reported
VIDEO_LLM_REPORTED = {"softmax": (81.8, 86.1, 79.3, 65.1, 78.1), "dna": (83.1, 87.1, 79.2, 65.1, 78.6)}
CATEGORIES = ("Act.", "Task", "HOI", "Hand", "mean of these four")


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


def render_video_llm(variant: str) -> str:
    """The card of VideoLLaMA3-7B with probes of one variant."""
    config = DnAVideoLlama3Config(
        text_config=LANGUAGE_MODEL,
        vision_config={"attention_variant": variant},
        architectures=["DnAVideoLlama3ForConditionalGeneration"],
    )
    with torch.device("meta"):
        model = DnAVideoLlama3ForConditionalGeneration(config)
    reported = [
        ReportedFigure(f"Ego-in-Exo PerceptionMCQ, {category}", f"{value} %", VIDEO_LLM_SOURCE)
        for category, value in zip(CATEGORIES, VIDEO_LLM_REPORTED[variant], strict=True)
    ]
    return str(model_card(model, f"your-name/{video_llm_file_name(variant)}", reported=reported))


def video_llm_file_name(variant: str) -> str:
    """Name of the card of a video language model, without suffix."""
    return f"videollama3-7b-probes-{variant}"


def file_name(variant: str) -> str:
    """Name of a variant's card, without suffix."""
    return f"vit-base-patch16-224-{variant.replace('_', '-')}"


def main() -> None:
    """Write all cards."""
    for variant in ("dna", "dna_shared_value", "softmax", "differential", "cog"):
        (FOLDER / f"{file_name(variant)}.md").write_text(render(variant), encoding="utf-8")
    (FOLDER / f"{VIDEO_CARD}.md").write_text(render_video(), encoding="utf-8")
    for variant in VIDEO_LLM_REPORTED:
        (FOLDER / f"{video_llm_file_name(variant)}.md").write_text(render_video_llm(variant), encoding="utf-8")


if __name__ == "__main__":
    main()
