"""Evaluate a video classifier over views: loss, top-1, top-5, accuracy per class and confusion matrix."""

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.data.data_collator import default_data_collator

from ..data.arguments import HELD_OUT_NAME, VideoDataArguments, is_held_out
from ..data.errors import DataError
from ..data.provenance import video_provenance
from ..data.summary import Announce, summarize
from ..data.unreadable import UNREADABLE
from ..data.video_sources import load_split
from ..data.videos import VideoDataset, split_views, view_processor
from ..kinds import VIDEO, load
from ..records.checkpoint_records import Measurement
from ..records.digest import weights_digest
from ..records.run_facts import model_facts
from ..records.stamp import stamp
from .held_out import as_trained
from .image_classification import (
    ClassificationResult,
    class_names,
    classification_result,
    match_classes,
)


# what `view_average` says of the views, for records
AVERAGED = {"softmax": "probabilities averaged", "logit_sum": "logits added"}


def evaluate_video_checkpoint(
    checkpoint: str,
    arguments: VideoDataArguments,
    split: str,
    *,
    batch_size: int = 8,
    device: str | None = None,
    revision: str | None = None,
    seed: int | None = None,
    announce: Announce | None = None,
) -> ClassificationResult:
    """Evaluate a checkpoint on a split; labels are matched to the model's classes by name.

    Args:
        checkpoint: folder, or name on the Hub.
        arguments: section `data`: which data set is read, which views over time and space of each video, and how
            they are averaged.
        split: name of the split to evaluate on; `held-out`: what training held out, see
            [`~dna_hf.evaluation.held_out.as_trained`].
        batch_size: number of videos that go through the model together, with all their views.
        device: device to run on, e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub.
        seed: seed of the training that held a part out, where the checkpoint has no record of it.
        announce: called before the model runs, with what the split holds and with facts about the model.

    Raises:
        DataError: if the checkpoint or the data cannot be loaded, the data has a class the model does not know, or a
            video cannot be read and `arguments.on_error` is `"raise"`.
    """
    arguments, seed = as_trained([checkpoint], arguments, split, seed, revision=revision)
    loaded = load(checkpoint, wanted=(VIDEO,), device=device, revision=revision)
    model, processor = loaded.model, loaded.processor
    known = class_names(model)
    videos = load_split(arguments, split, seed, known)
    classes = match_classes(videos.class_names, known)
    if announce is not None:
        announce(summarize(arguments, [videos]), model_facts(model))
    processor = view_processor(processor, arguments)
    dataset = VideoDataset(videos, processor, arguments)
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=default_data_collator)
    scores, labels, rows = [], [], []
    with torch.no_grad():
        for batch in tqdm(loader, desc="evaluate", leave=False):
            scores.append(view_scores(model, batch["pixel_values"], arguments.view_average))
            labels.append(batch["labels"].numpy())
            rows.append(batch["rows"].numpy())
    all_labels, numbers = np.concatenate(labels), np.concatenate(rows)
    readable = all_labels != UNREADABLE
    if not readable.any():
        raise DataError(f"no video of split {split!r} can be read.")
    all_labels[readable] = classes[all_labels[readable]]
    found = classification_result(np.concatenate(scores), all_labels, known, VIDEO)
    found.unreadable = [videos.clips[number].path for number in numbers[~readable]]
    found.measurement = Measurement(
        task=VIDEO.task,
        dataset=video_provenance(arguments, videos),
        split=HELD_OUT_NAME if is_held_out(split) else split,
        metrics=found.figures.means(),
        samples=found.figures.samples,
        unreadable=found.figures.unreadable,
        views=f"{processor.describe()['views']}, {AVERAGED[arguments.view_average]}",
        **stamp(),
        seed=seed,
        weights=weights_digest(model.state_dict()),
    )
    return found


@torch.no_grad()
def view_scores(model: PreTrainedModel, pixel_values: torch.Tensor, average: str) -> np.ndarray:
    """Scores (videos, classes) of videos (videos, [views,] frames, channels, height, width).

    Args:
        model: the classifier.
        pixel_values: normalised frames of all views, in the shape above.
        average: `"softmax"`: logarithms of the mean probabilities; `"logit_sum"`: the sum of the logits, as the
            authors' code.
    """
    pixel_values, views = split_views(pixel_values)
    logits = model(pixel_values=pixel_values.to(model.device, model.dtype)).logits.float().cpu()
    if average == "logit_sum":
        return logits.unflatten(0, (-1, views)).sum(dim=1).numpy()
    return (logits.log_softmax(dim=1).unflatten(0, (-1, views)).logsumexp(dim=1) - np.log(views)).numpy()
