"""transformers' Trainer for a video LLM: loss on answers, a rate for each group, checkpoints of what is trained."""

from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, pad
from transformers import EvalPrediction

from ..data.conversations import IGNORED
from .adapter import AdapterDescription, load_tensors, save_adapter
from .arguments import VideoLLMTrainingArguments
from .errors import ConfigurationError
from .parameter_groups import GROUPS, LORA, apply_group_rates, check_optimizer, group_of
from .trainer import DnATrainer


VISUAL_INPUTS = ("pixel_values", "pixel_values_videos")


class VideoLLMTrainer(DnATrainer):
    """A Trainer for [`~dna_hf.training.arguments.VideoLLMTrainingArguments`].

    - Its loss is the cross-entropy summed over the answers' tokens, divided by the number of them in the whole step:
      all micro-batches and processes. Logits are formed at these tokens alone, which of long sequences are few.
    - It gives every group of parameters its rate, sees that each trained tensor is in exactly one group, and logs the
      rates.
    - Its checkpoints hold what is trained, see [`~dna_hf.training.adapter`].

    Args:
        args: positional arguments of `transformers.Trainer`.
        description: base and groups that are written beside every adapter.
        lora_config: the `peft.LoraConfig` that [`~dna_hf.training.parameter_groups.add_lora`] returned; `None`
            without LoRA.
        kwargs: named arguments of `transformers.Trainer`.
    """

    args: VideoLLMTrainingArguments

    def __init__(self, *args: Any, description: AdapterDescription, lora_config: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, compute_loss_func=_answer_loss, compute_metrics=answer_metrics, **kwargs)
        self.description = description
        self.lora_config = lora_config
        # what a batch without images and videos does not reach
        self._visual_parameters = [
            parameter
            for name, parameter in self.model.named_parameters()  # type: ignore[union-attr]
            if parameter.requires_grad and group_of(name) not in (LORA, "language_model")
        ]

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer; see `transformers.Trainer.create_optimizer`."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if is_new:
            target: Any = model or self.model
            apply_group_rates(
                optimizer,
                target,
                self.args.learning_rates,
                weight_decay=self.args.weight_decay,
                decay_all=self.args.decay_all,
            )
            check_optimizer(optimizer, target)
        return optimizer

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The loss of a micro-batch; see `transformers.Trainer.compute_loss`."""
        loss: Any = super().compute_loss(model, _at_answers(inputs), *args, **kwargs)
        if self._visual_parameters and self.args.world_size > 1 and not any(name in inputs for name in VISUAL_INPUTS):
            # other processes wait for gradients of what their batches reach
            loss = loss + 0.0 * torch.stack([parameter.sum() for parameter in self._visual_parameters]).sum()
        return loss

    @torch.no_grad()
    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The mean loss of a batch, and of each sample the sum of losses, the right tokens and all tokens."""
        inputs = _at_answers(self._prepare_inputs(inputs))
        labels = inputs.pop("labels")
        with self.compute_loss_context_manager():
            logits = model(**inputs).logits.float()
        losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
        counted = labels != IGNORED
        right = (logits.argmax(-1) == labels) & counted
        sums = torch.stack([losses.sum(1), right.sum(1).float(), counted.sum(1).float()], dim=1)
        mean = losses.sum() / counted.sum().clamp(min=1)
        return (mean, None, None) if prediction_loss_only else (mean, sums, counted.sum(1))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log; a training loss comes with the rate of each group, where they are not all the same."""
        rates = self.args.learning_rates
        if "loss" in logs and len(set(rates.values())) > 1:
            # what is logged is the rate of the group that is first by name; the schedule multiplies all of them
            factor = logs["learning_rate"] / rates[min(rates)]
            logs = logs | {f"learning_rate/{name}": factor * rates[name] for name in GROUPS if name in rates}
        super().log(logs, *args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir or "")
        model: Any = self.accelerator.unwrap_model(self.model)
        # checkpoints keep the precision that training goes on with
        finished = folder == Path(self.args.output_dir or "")
        dtype = getattr(torch, self.args.adapter_dtype) if finished else torch.float32
        save_adapter(folder, model, self.description, self.lora_config, state_dict, dtype)
        processor: Any = self.processing_class
        processor.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            target: Any = model or self.model
            load_tensors(target, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        elif self.state.best_model_checkpoint is not None:
            model: Any = self.model
            load_tensors(model, self.state.best_model_checkpoint)


def _at_answers(inputs: dict[str, Any]) -> dict[str, Any]:
    """Have logits formed only where the next token of some sample is one of its answers, and labels to match.

    Returns:
        The inputs with `logits_to_keep` (places), and with `labels` (samples, places): of the next token.
    """
    following = pad(inputs["labels"][:, 1:], (0, 1), value=IGNORED)
    places = (following != IGNORED).any(0).nonzero().squeeze(1)
    if not len(places):
        # a batch of samples that could not be read
        places = places.new_zeros(1)
    return inputs | {"labels": following[:, places], "logits_to_keep": places}


def _answer_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross-entropy of the answers' tokens, summed and divided by their number in the step."""
    logits = outputs["logits"].float()
    total = cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum", ignore_index=IGNORED)
    return total / ((labels != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


def answer_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of a Trainer: means over the answers' tokens of all samples.

    Args:
        prediction: predictions (samples, 3): of each sample the sum of the losses of its answers' tokens,
            the number of those that were predicted right, and their number.

    Returns:
        `loss`, the cross-entropy in nats, which replaces the Trainer's mean over batches, and `token_accuracy`, the
        part that was predicted right.

    Raises:
        ConfigurationError: if no sample could be read.
    """
    losses, right, tokens = prediction.predictions.sum(0)  # type: ignore[union-attr]
    if not tokens:
        raise ConfigurationError("no sample of data.eval_dataset could be read.")
    return {"loss": float(losses / tokens), "token_accuracy": float(right / tokens)}
