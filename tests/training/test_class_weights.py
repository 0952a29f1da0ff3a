"""Class weights: torch's weighted losses over whole steps, whatever the micro-batches, and what is refused."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from dna_hf import DnAViTConfig, DnAViTForImageClassification
from dna_hf.data.mixing import MixingCollator, smooth_one_hot
from dna_hf.data.problem_types import MULTI_LABEL, SINGLE_LABEL
from dna_hf.training.arguments import ClassifierTrainingArguments
from dna_hf.training.class_weights import WeightedLoss, class_weights
from dna_hf.training.classification import train_classifier
from dna_hf.training.errors import ConfigurationError
from dna_hf.training.trainer import ClassificationTrainer
from tests.kit.training import tiny_run


NAMES = ["cat", "dog", "bird"]
WEIGHTS = torch.tensor([0.2, 1.0, 3.5])
SIZES = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 16, "initializer_range": 0.5, "num_labels": 3}


class Labels:
    """What is asked of a split."""

    def __init__(self, labels, is_stream=False, class_names=NAMES):
        self.own, self.is_stream, self.class_names = np.asarray(labels), is_stream, class_names
        self.unit, self.name = "images", "train"

    def labels(self):
        return self.own


def logits_and_labels(count=64):
    random = torch.Generator().manual_seed(0)
    return 3 * torch.randn(count, 3, generator=random), torch.randint(3, (count,), generator=random)


class Output(dict):
    """What a model returns."""


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_label_is_the_cross_entropy_of_torch(smoothing):
    logits, labels = logits_and_labels()
    expected = nn.CrossEntropyLoss(WEIGHTS.double(), label_smoothing=smoothing)(logits.double(), labels)
    targets = labels if smoothing == 0 else smooth_one_hot(labels, 3, smoothing)
    loss = WeightedLoss(WEIGHTS, label_smoothing=smoothing)
    assert loss(Output(logits=logits), targets).item() == pytest.approx(expected.item(), rel=1e-6)
    # micro-batches of any size add up to it
    parts = [slice(0, 5), slice(5, 40), slice(40, 64)]
    total = sum(loss.count(targets[part]) for part in parts)
    sums = sum(loss(Output(logits=logits[part]), targets[part], total) for part in parts)
    assert sums.item() == pytest.approx(expected.item(), rel=1e-6)


def test_several_labels_are_the_binary_cross_entropy_of_torch():
    logits, _ = logits_and_labels()
    labels = (torch.rand(64, 3, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    expected = nn.BCEWithLogitsLoss(pos_weight=WEIGHTS.double())(logits.double(), labels.double())
    loss = WeightedLoss(WEIGHTS, several=True)
    assert loss(Output(logits=logits), labels).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_mixed_sample_has_its_part_of_both_weights():
    logits, labels = logits_and_labels(8)
    others, kept, smoothing = labels.flip(0), 0.3, 0.1
    targets = kept * smooth_one_hot(labels, 3, smoothing) + (1 - kept) * smooth_one_hot(others, 3, smoothing)
    sums = nn.CrossEntropyLoss(WEIGHTS.double(), label_smoothing=smoothing, reduction="sum")
    expected = kept * sums(logits.double(), labels) + (1 - kept) * sums(logits.double(), others)
    expected /= (kept * WEIGHTS[labels] + (1 - kept) * WEIGHTS[others]).sum()
    found = WeightedLoss(WEIGHTS, label_smoothing=smoothing)(Output(logits=logits), targets)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


class Samples(Dataset):
    """Random pixels with one label, or several."""

    def __init__(self, problem_type, count):
        random = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, 3, 8, 8, generator=random)
        self.labels = torch.randint(3, (count,), generator=random)
        if problem_type == MULTI_LABEL:
            self.labels = (torch.rand(count, 3, generator=random) < 0.4).float()

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": self.labels[index], "rows": index}


def model_of(problem_type):
    torch.manual_seed(0)
    return DnAViTForImageClassification(DnAViTConfig(**SIZES, problem_type=problem_type))


@pytest.mark.parametrize(("problem_type", "smoothing"), [(SINGLE_LABEL, 0.0), (SINGLE_LABEL, 0.1), (MULTI_LABEL, 0.0)])
def test_micro_batches_make_the_step_of_one_large_batch(tmp_path, problem_type, smoothing):
    """16 x 1 against 4 x 4, the last micro-batch partial, by one step of plain gradient descent at rate 1."""
    samples = Samples(problem_type, 14)
    start = model_of(problem_type).double()
    torch_loss = (
        nn.BCEWithLogitsLoss(pos_weight=WEIGHTS.double())
        if problem_type == MULTI_LABEL
        else nn.CrossEntropyLoss(WEIGHTS.double(), label_smoothing=smoothing)
    )
    labels = samples.labels.double() if problem_type == MULTI_LABEL else samples.labels
    expected = torch_loss(start(pixel_values=samples.pixels.double()).logits, labels)
    expected.backward()
    moved = {name: (p.detach() - p.grad).float() for name, p in start.named_parameters()}
    settings = {"learning_rate": 1.0, "lr_scheduler_type": "constant", "optim": "sgd", "max_grad_norm": 0.0}
    settings |= {"num_train_epochs": 1, "use_cpu": True, "report_to": "none", "save_strategy": "no"}
    settings |= {"logging_steps": 1, "disable_tqdm": True, "dataloader_pin_memory": False}
    for batch, steps in ((16, 1), (4, 4)):
        model = model_of(problem_type)
        arguments = ClassifierTrainingArguments(
            str(tmp_path), per_device_train_batch_size=batch, gradient_accumulation_steps=steps, **settings
        )
        trainer = ClassificationTrainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            compute_loss_func=WeightedLoss(WEIGHTS, problem_type == MULTI_LABEL, smoothing),
            train_collator=MixingCollator(3, label_smoothing=smoothing) if smoothing else None,
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert losses == [pytest.approx(expected.item(), rel=1e-5)]
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.detach(), moved[name], atol=2e-6, rtol=1e-5, msg=f"{batch} {name}")


def test_balanced_weights_are_those_of_scikit_learn():
    labels = [0] * 6 + [1] * 3 + [2]
    # sklearn.utils.class_weight.compute_class_weight("balanced", classes=[0, 1, 2], y=labels)
    expected = [0.5555555555555556, 1.1111111111111112, 3.3333333333333335]
    assert class_weights("balanced", Labels(labels), SINGLE_LABEL).tolist() == pytest.approx(expected)
    several = [[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 1]]
    assert class_weights("balanced", Labels(several), MULTI_LABEL).tolist() == pytest.approx([1.0, 1 / 3, 3.0])
    assert class_weights([1, 2, 3], Labels(labels), SINGLE_LABEL).tolist() == [1, 2, 3]
    # YAML reads names that are numbers as numbers
    numbered = Labels(labels, class_names=["0", "1", "2"])
    assert class_weights({1: 2.5}, numbered, SINGLE_LABEL).tolist() == [1, 2.5, 1]
    assert class_weights({"bird": 2.5}, Labels(labels), SINGLE_LABEL).tolist() == [1, 1, 2.5]


REFUSED = {
    "too few": ([1.0, 2.0], Labels([0, 1, 2]), "2 numbers, but the data has 3 classes"),
    "no such class": ({"bord": 2.0}, Labels([0, 1, 2]), "did you mean 'bird'?"),
    "no sample": ("balanced", Labels([0, 0, 1]), "no weight for class 'bird', of which split 'train' has no images"),
    "a stream": ("balanced", Labels([0], is_stream=True), "counts the samples, which a stream hides"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_the_data_is_refused(case):
    given, split, sentence = REFUSED[case]
    with pytest.raises(ConfigurationError) as error:
        class_weights(given, split, SINGLE_LABEL)
    assert sentence in str(error.value)


def test_a_label_that_every_sample_has_cannot_be_balanced():
    with pytest.raises(ConfigurationError, match="of which split 'train' has only images"):
        class_weights("balanced", Labels([[1, 1, 0], [1, 0, 1]]), MULTI_LABEL)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("even", "class_weights is 'even'"),
        ([1.0, 0.0], "must be positive, got 0.0 for class 1"),
        ({"cat": -1}, "must be positive, got -1.0 for class 'cat'"),
        (["cat"], "class_weights must be"),
        ({"cat": "much"}, "class_weights must be"),
        ({1: -2}, "must be positive, got -2.0 for class 1"),
        ({}, "class_weights is {}, which weighs no class: leave it out"),
        ([], "class_weights is [], which weighs no class: leave it out"),
    ],
)
def test_wrong_values_are_refused_before_data_is_read(tmp_path, value, sentence):
    with pytest.raises(ConfigurationError) as error:
        tiny_run(tmp_path, class_weights=value)
    assert sentence in str(error.value)


def test_a_run_weighs_its_classes_and_evaluates_them_alike(tmp_path):
    """Of weights that leave out nearly all classes but one, a run learns to take everything for that class."""
    # all samples in a step: the weights of a step count only among themselves, as in torch
    steps = {"num_train_epochs": 10, "learning_rate": 1e-2, "per_device_train_batch_size": 40, "logging_steps": 1}
    steps |= {"eval_strategy": "no", "save_strategy": "no"}
    names = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
    weights = dict.fromkeys(names, 1e-4) | {"Bag": 1.0}
    result = train_classifier(tiny_run(tmp_path / "weighed", class_weights=weights, **steps))
    taken = np.array(result.evaluation.confusion).sum(axis=0)
    assert names[taken.argmax()] == "Bag" and taken.max() == taken.sum()
    # the loss of evaluation counts all classes alike: nine of ten of which are far off
    assert result.metrics["eval_loss"] > 1.5
    record = json.loads((tmp_path / "weighed" / "training.json").read_text())
    assert record["settings"]["training"]["class_weights"] == weights
    balanced = train_classifier(tiny_run(tmp_path / "balanced", class_weights="balanced", **steps))
    assert np.isfinite(balanced.metrics["eval_loss"])
