"""The loss of every problem type under gradient accumulation: micro-batches make the step of one large batch."""

import pytest
import torch
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from dna_hf import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnAViTConfig,
    DnAViTForImageClassification,
)
from dna_hf.data.problem_types import MULTI_LABEL, PROBLEM_TYPES, REGRESSION, SINGLE_LABEL
from dna_hf.training.arguments import ClassifierTrainingArguments
from dna_hf.training.trainer import ClassificationTrainer


SIZES = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 16, "initializer_range": 0.5}


class Samples(Dataset):
    """Random pixels with labels of a problem type."""

    def __init__(self, problem_type, count, shape=(3, 8, 8)):
        random = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, *shape, generator=random)
        self.labels = {
            SINGLE_LABEL: torch.randint(3, (count,), generator=random),
            MULTI_LABEL: (torch.rand(count, 3, generator=random) < 0.4).float(),
            REGRESSION: 5 * torch.randn(count, 3, generator=random),
        }[problem_type]

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def mean_loss(problem_type, logits, labels):
    losses = {
        SINGLE_LABEL: functional.cross_entropy,
        MULTI_LABEL: functional.binary_cross_entropy_with_logits,
        REGRESSION: functional.mse_loss,
    }
    return losses[problem_type](logits, labels)


def image_model(problem_type):
    torch.manual_seed(0)
    return DnAViTForImageClassification(DnAViTConfig(**SIZES, num_labels=3, problem_type=problem_type))


def train_once(folder, model, samples, trainer_class, arguments_class, **options):
    """One pass with plain gradient descent at rate 1: the weights move by the gradient of the step."""
    settings = {"learning_rate": 1.0, "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0}
    settings |= {"num_train_epochs": 1, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    settings |= {"logging_steps": 1, "disable_tqdm": True, "dataloader_pin_memory": False}
    trainer = trainer_class(
        model=model, args=arguments_class(str(folder), **settings | options), train_dataset=samples
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("plain", [False, True], ids=["ours", "transformers' Trainer"])
@pytest.mark.parametrize("count", [16, 13], ids=["full", "partial"])
@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_micro_batches_make_the_step_of_one_large_batch(tmp_path, problem_type, count, plain):
    """16 x 1 against 4 x 4, the last micro-batch partial; against the gradient of the plain mean of torch, too."""
    classes = (Trainer, TrainingArguments) if plain else (ClassificationTrainer, ClassifierTrainingArguments)
    samples = Samples(problem_type, count)
    start = image_model(problem_type)
    expected = mean_loss(problem_type, start(pixel_values=samples.pixels).logits, samples.labels)
    expected.backward()
    moved = {name: p.detach() - p.grad for name, p in start.named_parameters()}
    for batch, steps in ((16, 1), (4, 4)):
        losses, weights = train_once(
            tmp_path,
            image_model(problem_type),
            samples,
            *classes,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
        )
        assert losses == [pytest.approx(expected.item(), rel=1e-6)]
        for name, tensor in moved.items():
            torch.testing.assert_close(weights[name], tensor, atol=1e-6, rtol=1e-5, msg=f"{batch} {name}")


def test_a_target_of_minus_100_counts(tmp_path):
    """transformers leaves it out when it counts the numbers of a step; it is a target like any other."""
    samples = Samples(REGRESSION, 16)
    samples.labels[:6] = -100.0
    start = image_model(REGRESSION)
    expected = functional.mse_loss(start(pixel_values=samples.pixels).logits, samples.labels)
    losses, _ = train_once(
        tmp_path, image_model(REGRESSION), samples, ClassificationTrainer, ClassifierTrainingArguments,
        per_device_train_batch_size=4, gradient_accumulation_steps=4,
    )  # fmt: skip
    assert losses == [pytest.approx(expected.item(), rel=1e-6)]


def test_one_output(tmp_path):
    """Whose logits and targets transformers squeezes, and which needs no problem type."""
    samples = Samples(REGRESSION, 13)
    samples.labels = samples.labels[:, :1]
    model = DnAViTForImageClassification(DnAViTConfig(**SIZES, num_labels=1))
    expected = functional.mse_loss(model(pixel_values=samples.pixels).logits, samples.labels)
    losses, _ = train_once(
        tmp_path, model, samples, ClassificationTrainer, ClassifierTrainingArguments,
        per_device_train_batch_size=4, gradient_accumulation_steps=4,
    )  # fmt: skip
    assert losses == [pytest.approx(expected.item(), rel=1e-6)]


@pytest.mark.parametrize("problem_type", [MULTI_LABEL, REGRESSION])
def test_videos(tmp_path, problem_type):
    sizes = SIZES | {"num_frames": 2}
    model = DnATimesformerForVideoClassification(
        DnATimesformerConfig(**sizes, num_labels=3, problem_type=problem_type)
    )
    samples = Samples(problem_type, 8, shape=(2, 3, 8, 8))
    expected = mean_loss(problem_type, model(pixel_values=samples.pixels).logits, samples.labels)
    losses, _ = train_once(
        tmp_path, model, samples, Trainer, TrainingArguments,
        per_device_train_batch_size=2, gradient_accumulation_steps=4,
    )  # fmt: skip
    assert losses == [pytest.approx(expected.item(), rel=1e-6)]


def test_a_loss_of_ones_own_is_taken_as_it_is():
    model, samples = image_model(MULTI_LABEL), Samples(MULTI_LABEL, 4)
    model.loss_function = lambda labels, logits, config, num_items_in_batch=None: logits.sum() * num_items_in_batch
    outputs = model(pixel_values=samples.pixels, labels=samples.labels, num_items_in_batch=12)
    assert outputs.loss.item() == pytest.approx(12 * outputs.logits.sum().item(), rel=1e-6)
