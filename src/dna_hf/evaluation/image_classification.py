"""Evaluate an image classifier: loss, top-1, top-5 and accuracy per class."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.data.data_collator import default_data_collator

from ..data.arguments import HELD_OUT_NAME, ImageDataArguments, is_held_out
from ..data.errors import DataError
from ..data.images import torch_dataset
from ..data.problem_types import SINGLE_LABEL
from ..data.provenance import provenance
from ..data.sources import load_split
from ..data.summary import Announce, summarize
from ..data.unreadable import UNREADABLE
from ..kinds import IMAGE, Kind, load
from ..records.checkpoint_records import Measurement, record_measurement
from ..records.digest import weights_digest
from ..records.run_facts import model_facts
from ..records.stamp import stamp
from .figures import Figures, PartFigure, SliceFigure, class_table, confusion_matrix, is_readable
from .held_out import as_trained
from .problems import Problem, problem_of
from .slices import SliceFigures, problem_slices, slice_figures, slice_rows


@dataclass
class ClassificationResult:
    """What a classifier reaches on a split.

    Args:
        kind: kind of the classifier, of images or of videos.
        figures: loss and other figures over all samples.
        per_class: figures on each class or output, in the order of the model's.
        confusion: samples of a class (row) that were taken for a class (column), in the order of the model's classes;
            `None` where a sample has not just one class.
        slices: figures on each slice, where slices were asked for.
        measurement: the figures, tied to the weights they were measured on.
        unreadable: names of samples that could not be read, and count nowhere.
    """

    kind: Kind
    figures: Figures
    per_class: Sequence[PartFigure]
    confusion: list[list[int]] | None
    slices: Sequence[SliceFigure | SliceFigures] | None = None
    measurement: Measurement | None = None
    unreadable: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each figure over all samples, as text for a table."""
        return self.figures.rows(self.kind.unit)

    def class_table(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The header and the rows of a table of the classes, the worst first."""
        return class_table(self.per_class, self.kind.unit)

    def report(self) -> dict[str, Any]:
        """The result in the layout of the files that `dna-hf evaluate --output` writes."""
        unit = self.kind.unit
        return {
            "metrics": self.figures.by_name(self.kind),
            "per_class": {each.name: each.by_name(unit) for each in self.per_class},
            "measurement": None if self.measurement is None else asdict(self.measurement),
            "slices": None if self.slices is None else {each.name: each.by_name(unit) for each in self.slices},
            "confusion": self.confusion,
            "unreadable": self.unreadable,
        }


def evaluate_checkpoint(
    checkpoint: str,
    arguments: ImageDataArguments,
    split: str,
    *,
    batch_size: int = 64,
    device: str | None = None,
    revision: str | None = None,
    slices: str | None = None,
    seed: int | None = None,
    announce: Announce | None = None,
) -> ClassificationResult:
    """Evaluate a checkpoint on a split; labels are matched to the model's classes by name.

    Args:
        checkpoint: folder, or name on the Hub.
        arguments: section `data`: which data set is read, and how its images become tensors.
        split: name of the split to evaluate on; `held-out`: what training held out, see
            [`~dna_hf.evaluation.held_out.as_trained`].
        batch_size: number of images that go through the model together.
        device: device to run on, e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub.
        slices: column of the data by whose values accuracies are stated too, see [`~dna_hf.evaluation.slices`].
        seed: seed of the training that held a part out, where the checkpoint has no record of it.
        announce: called before the model runs, with what the split holds and with facts about the model.

    Raises:
        DataError: if the checkpoint or the data cannot be loaded, the data has a class the model does not know, or
            cannot be sliced so.
    """
    if slices is not None and arguments.streaming:
        raise DataError("slices need random access to the data: leave out --streaming.")
    arguments, seed = as_trained([checkpoint], arguments, split, seed, revision=revision)
    loaded = load(checkpoint, wanted=(IMAGE,), device=device, revision=revision)
    model, processor = loaded.model, loaded.processor
    problem = problem_of(model.config)
    images = load_split(arguments, split, seed, problem_type=problem.problem_type)
    # before the model runs, so that a wrong column costs nothing
    rows_of_slices = None if slices is None else slice_rows(images, slices)
    known = class_names(model)
    if images.names_are_found and set(images.class_names) <= set(known):
        # no image has the other labels
        images = images.with_classes(known)
    classes = match_classes(images.class_names, known)
    if announce is not None:
        announce(summarize(arguments, [images]), model_facts(model))
    dataset = torch_dataset(images, processor, arguments=arguments)
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=default_data_collator)
    logits, labels = predict_logits(model, loader)
    names, logits, labels = _in_order_of_model(problem, classes, known, logits, labels)
    result = classification_result(logits, labels, names, IMAGE, problem)
    result.unreadable = dataset.unreadable.names()
    if rows_of_slices is not None:
        result.slices = _on_slices(rows_of_slices, problem, logits, labels)
    result.measurement = Measurement(
        task=IMAGE.task,
        dataset=provenance(arguments, images),
        split=HELD_OUT_NAME if is_held_out(split) else split,
        metrics=result.figures.means(),
        samples=result.figures.samples,
        unreadable=result.figures.unreadable,
        **stamp(),
        seed=seed,
        weights=weights_digest(model.state_dict()),
    )
    return result


def _in_order_of_model(
    problem: Problem, classes: np.ndarray, known: list[str], logits: np.ndarray, labels: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, logits and labels of the model's classes; of several labels and of a regression, those the data has."""
    if problem.problem_type == SINGLE_LABEL:
        readable = is_readable(labels)
        return known, logits, np.where(readable, classes[np.where(readable, labels, 0)], UNREADABLE)
    order = np.argsort(classes)
    return [known[place] for place in classes[order]], logits[:, classes[order]], labels[:, order]


def _on_slices(
    slices: dict[str, np.ndarray], problem: Problem, logits: np.ndarray, labels: np.ndarray
) -> Sequence[SliceFigure | SliceFigures]:
    if problem.problem_type == SINGLE_LABEL:
        return slice_figures(slices, logits.argmax(axis=1) == labels, is_readable(labels))
    return problem_slices(slices, problem, logits, labels)


def record_evaluation(folder: str | Path, result: ClassificationResult) -> None:
    """Keep figures in the checkpoint folder that they were measured on, for its model card.

    Raises:
        ValueError: for figures that [`evaluate_checkpoint`] did not measure.
    """
    if result.measurement is None:
        raise ValueError("these figures are not tied to weights: measure them with evaluate_checkpoint.")
    record_measurement(folder, result.measurement)


def class_names(model: PreTrainedModel) -> list[str]:
    """Names of the model's classes, in the order of its logits."""
    id2label: dict = model.config.id2label or {}
    return [id2label[index] for index in sorted(id2label)]


def match_classes(names: list[str], known: list[str]) -> np.ndarray:
    """For every class of the data, the model's index of it.

    Raises:
        DataError: if the model does not know a class.
    """
    if names == known:
        return np.arange(len(names))  # in ImageNet two classes have one name
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"the model does not know {len(unknown)} of the {len(names)} classes of the data ({unknown[0]!r}); "
            f"its classes are {', '.join(known[:5])}, ...: set class_names if only the names differ."
        )
    return np.array([known.index(name) for name in names])


def predict_logits(model: PreTrainedModel, loader: Any) -> tuple[np.ndarray, np.ndarray]:
    """Run a model over batches: logits (images, classes) in float32, and labels (images)."""
    logits, labels = zip(*logits_by_batch(model, loader), strict=True)
    return np.concatenate(logits), np.concatenate(labels)


@torch.no_grad()
def logits_by_batch(model: PreTrainedModel, loader: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run a model over batches; yields logits (images, classes) in float32, and labels (images) of each."""
    for batch in tqdm(loader, desc="evaluate", leave=False):
        outputs = model(pixel_values=batch["pixel_values"].to(model.device, model.dtype))
        yield outputs.logits.float().cpu().numpy(), batch["labels"].numpy()


def classification_result(
    scores: np.ndarray, labels: np.ndarray, names: list[str], kind: Kind, problem: Problem | None = None
) -> ClassificationResult:
    """Compute all figures.

    Args:
        scores: logits (samples, classes or outputs); of single labels, logarithms of probabilities will do.
        labels: class or numbers of each sample, as [`~dna_hf.evaluation.problems.Problem.figures`] takes them.
        names: names of the classes or outputs, in the order of the scores.
        kind: kind of the classifier, of images or of videos.
        problem: what the model is asked for each sample; by default its class.

    Raises:
        DataError: if no sample could be read.
    """
    problem = problem or Problem()
    readable = is_readable(labels)
    return ClassificationResult(
        kind=kind,
        figures=problem.with_interval(scores, labels),
        per_class=problem.parts(scores[readable], labels[readable], names),
        confusion=confusion_matrix(scores[readable], labels[readable]) if labels.ndim == 1 else None,
    )
