"""Publish checkpoints to the Hub, with their code, processor and model card."""

from .errors import PublishError
from .model_card import model_card
from .publish import Published, publish


__all__ = ["PublishError", "Published", "model_card", "publish"]
