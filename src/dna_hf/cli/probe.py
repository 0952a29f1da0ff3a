"""What kind of model a checkpoint holds."""

VIDEO_MODEL, VIDEO_LLM = "dna_timesformer", "dna_video_llama3"


def is_video_model(checkpoint: str, revision: str | None) -> bool:
    """Whether a checkpoint holds a video classifier; one that cannot be read is told so where it is loaded."""
    from transformers import AutoConfig

    from .. import models  # noqa: F401
    from ..training.errors import ConfigurationError

    try:
        model_type = AutoConfig.from_pretrained(checkpoint, revision=revision).model_type
    except (OSError, ValueError, KeyError):
        return False
    if model_type == VIDEO_LLM:
        raise ConfigurationError(f"{checkpoint!r} holds a video LLM: ask it with dna-hf answer or dna-hf chat.")
    return model_type == VIDEO_MODEL
