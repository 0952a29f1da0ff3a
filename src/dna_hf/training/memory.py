"""How much memory training a video LLM takes, estimated before anything is loaded."""

from dataclasses import dataclass
from typing import Any

from ..data.conversation_arguments import ConversationDataArguments
from .arguments import VideoLLMTrainingArguments
from .parameter_groups import ParameterGroup


# what optimizers keep of each parameter, in bytes; all others are taken for Adam
OPTIMIZER_BYTES = {"sgd": 4, "adafactor": 0, "adamw_8bit": 2, "adamw_bnb_8bit": 2, "paged_adamw_8bit": 2}
ADAM_BYTES = 8
FLOAT32, BFLOAT16 = 4, 2
# tokens of text that are assumed beside the visual ones
TEXT_TOKENS = 512


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes in each process, undivided; ZeRO and FSDP divide the first three among processes.

    Args:
        weights: bytes of the weights: frozen ones in bfloat16 where the run has `bf16`, else in float32, trained ones
            in float32.
        gradients: bytes of the gradients of the trained weights, in float32.
        optimizer: bytes that the optimizer keeps for the trained weights.
        activations: bytes of the activations, roughly; see [`estimate_memory`].
        tokens: number of tokens in the longest batch, for which the activations were estimated.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    tokens: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate_memory(
    groups: list[ParameterGroup], config: Any, data: ConversationDataArguments, training: VideoLLMTrainingArguments
) -> MemoryEstimate:
    """Estimate what training takes.

    The activations are a rough upper bound, for a batch of the longest samples. With T tokens and V = 4 times as many
    patches (blocks of 2 x 2 become a token), of width d, m the width of the MLP, and two or four bytes a number:

    - with gradient checkpointing T * d for each layer of the language model and V * d for each interaction module;
      without it T * (10 d + 4 m) and V * 5 d;
    - T * (10 d + 4 m) for the layer that is computed, and V * (10 d + 4 m) for that of the vision encoder.

    Attention is taken to form no maps (sdpa, flash attention), logits to be formed of answers alone.

    Args:
        groups: groups of parameters of the model, trained or frozen.
        config: configuration of the model.
        data: section `data` of the run.
        training: section `training` of the run.
    """
    trained = sum(group.parameters for group in groups if group.learning_rate is not None)
    frozen = sum(group.parameters for group in groups if group.learning_rate is None)
    number = BFLOAT16 if training.bf16 or training.fp16 else FLOAT32
    longest = data.model_max_length
    if data.max_visual_tokens is not None:
        longest = min(longest, data.max_visual_tokens + TEXT_TOKENS)
    tokens = training.per_device_train_batch_size * longest
    text, vision = config.text_config, config.vision_config
    patches = 4 * tokens
    one_layer = tokens * _layer(text) + patches * _layer(vision)
    modules = len(vision.interaction_layer_ids) if config.include_visual_probes else 0
    if training.gradient_checkpointing:
        kept = tokens * text.hidden_size * text.num_hidden_layers + patches * vision.hidden_size * modules
    else:
        kept = tokens * _layer(text) * text.num_hidden_layers + patches * 5 * vision.hidden_size * modules
    return MemoryEstimate(
        weights=frozen * (BFLOAT16 if training.bf16 else FLOAT32) + trained * FLOAT32,
        gradients=trained * FLOAT32,
        optimizer=trained * OPTIMIZER_BYTES.get(str(getattr(training.optim, "value", training.optim)), ADAM_BYTES),
        activations=(kept + one_layer) * number,
        tokens=tokens,
    )


def _layer(config: Any) -> int:
    """Numbers that a layer of a transformer keeps of each token."""
    return 10 * config.hidden_size + 4 * getattr(config, "intermediate_size", 4 * config.hidden_size)


def gibibytes(estimate: MemoryEstimate) -> dict[str, float]:
    """The parts of an estimate and their sum, in GiB."""
    names = ("weights", "gradients", "optimizer", "activations", "total")
    return {name: getattr(estimate, name) / 2**30 for name in names}
