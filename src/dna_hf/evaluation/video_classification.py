"""Evaluate a video classifier over views: loss, top-1, top-5, accuracy per class and confusion matrix."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoModelForVideoClassification, EvalPrediction, PreTrainedModel
from transformers.data.data_collator import default_data_collator

# from its module, which is there without torchvision; the name at the top level is not
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from ..data.arguments import VideoDataArguments
from ..data.clips import Clip
from ..data.errors import DataError
from ..data.provenance import video_provenance
from ..data.video_protocols import find_videos
from ..data.video_sources import load_split
from ..data.videos import UNREADABLE, VideoDataset, VideoReader, split_views, view_processor
from ..records.checkpoint_records import Measurement
from ..records.digest import weights_digest
from ..records.stamp import stamp
from .image_classification import (
    ClassificationResult,
    class_names,
    classification_result,
    inference_device,
    match_classes,
    top_k_metrics,
)
from .predict import Prediction


# what `view_average` says of the views, for records
AVERAGED = {"softmax": "probabilities averaged", "logit_sum": "logits added"}


def video_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """`compute_metrics` of a Trainer from logits (videos, classes); videos that could not be read do not count.

    Returns:
        `top1`, `top5`, `mean_class_accuracy`, `cross_entropy` (nats), and how many `videos` were read and how many
        `unreadable`.

    Raises:
        DataError: if none could be read.
    """
    labels: Any = prediction.label_ids
    readable = labels != UNREADABLE
    if not readable.any():
        raise DataError("no video of the evaluation split can be read.")
    logits, labels = np.asarray(prediction.predictions)[readable], labels[readable]
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    figures = top_k_metrics(EvalPrediction(predictions=logits, label_ids=labels))
    figures["videos"] = figures.pop("images")
    return figures | {"cross_entropy": float(loss), "unreadable": int((~readable).sum())}


def load_video_processor(checkpoint: str, revision: str | None = None) -> Any:
    """Load the video processor of a checkpoint (folder or Hub name), with or without torchvision."""
    return AutoVideoProcessor.from_pretrained(checkpoint, revision=revision or "main")


def load_video_classifier(
    checkpoint: str, device: str | None = None, revision: str | None = None
) -> tuple[PreTrainedModel, Any]:
    """Load a checkpoint (folder or Hub name) and its video processor for inference.

    Args:
        checkpoint: where `save_pretrained` wrote, or a name on the Hub.
        device: e.g. `"cuda:1"`; by default the first GPU, else the CPU.
        revision: commit, tag or branch on the Hub.

    Raises:
        DataError: if there is no such checkpoint, or it is no video classifier.
    """
    try:
        processor = load_video_processor(checkpoint, revision)
        model = AutoModelForVideoClassification.from_pretrained(checkpoint, revision=revision)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(f"cannot load a video classifier from {checkpoint!r}: {reason}") from error
    return model.to(inference_device(device)).eval(), processor


def evaluate_video_checkpoint(
    checkpoint: str,
    arguments: VideoDataArguments,
    split: str,
    *,
    batch_size: int = 8,
    device: str | None = None,
    revision: str | None = None,
) -> ClassificationResult:
    """Evaluate a checkpoint on a split; labels are matched to the model's classes by name.

    Args:
        checkpoint: folder, or name on the Hub.
        arguments: the data, the views over time and space, and how they are averaged.
        split: which part of it.
        batch_size: videos that go through the model together, with all their views.
        device: as of [`load_video_classifier`].
        revision: the same.

    Raises:
        DataError: if the checkpoint or the data cannot be loaded, the data has a class the model does not know, or a
            video cannot be read and `arguments.on_error` is `"raise"`.
    """
    model, processor = load_video_classifier(checkpoint, device, revision)
    videos = load_split(arguments, split)
    known = class_names(model)
    classes = match_classes(videos.class_names, known)
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
    found = classification_result(np.concatenate(scores)[readable], classes[all_labels[readable]], known, "videos")
    found.metrics["unreadable"] = int((~readable).sum())
    found.unreadable = [videos.clips[number].path for number in numbers[~readable]]
    found.measurement = Measurement(
        task="video-classification",
        dataset=video_provenance(arguments, videos),
        split=split,
        metrics={name: value for name, value in found.metrics.items() if name not in ("videos", "unreadable")},
        samples=int(readable.sum()),
        views=f"{processor.describe()['views']}, {AVERAGED[arguments.view_average]}",
        **stamp(),
        seed=None,
        weights=weights_digest(model.state_dict()),
    )
    return found


@torch.no_grad()
def view_scores(model: PreTrainedModel, pixel_values: torch.Tensor, average: str) -> np.ndarray:
    """Scores (videos, classes) of videos (videos, [views,] frames, channels, height, width).

    Args:
        model: the classifier.
        pixel_values: of all views.
        average: `"softmax"`: logarithms of the mean probabilities; `"logit_sum"`: the sum of the logits, as the
            authors' code.
    """
    pixel_values, views = split_views(pixel_values)
    logits = model(pixel_values=pixel_values.to(model.device, model.dtype)).logits.float().cpu()
    if average == "logit_sum":
        return logits.unflatten(0, (-1, views)).sum(dim=1).numpy()
    return (logits.log_softmax(dim=1).unflatten(0, (-1, views)).logsumexp(dim=1) - np.log(views)).numpy()


def video_files(paths: Iterable[str | Path]) -> list[Path]:
    """Files as given, and all videos inside folders, sorted.

    Raises:
        DataError: if a path does not exist, or a folder holds no video.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise DataError(f"video {str(path)!r} does not exist.")
        files += [Path(found) for found in find_videos(path)] if path.is_dir() else [path]
    return files


def classify_videos(
    model: PreTrainedModel, processor: Any, files: Iterable[Path], *, top_k: int = 5, timeout: float = 60.0
) -> Iterator[Prediction]:
    """Classify video files.

    Args:
        model: a video classifier, as [`load_video_classifier`] returns it.
        processor: its video processor.
        files: the videos. One that cannot be read yields a prediction with an `error` and costs the others nothing.
        top_k: how many classes to return.
        timeout: seconds after which a video counts as one that cannot be read.

    Yields:
        One prediction for each file, in order.
    """
    names = class_names(model)
    reader = VideoReader(timeout)
    try:
        for path in files:
            try:
                frames = [reader.read(Clip(str(path), 0), sampling) for sampling in processor.samplings()]
            except DataError as error:
                yield Prediction(path, [], str(error))
                continue
            views = torch.stack([view for clip in frames for view in processor.crops(clip)])
            scores = torch.from_numpy(view_scores(model, views[None], "softmax"))[0].exp()
            values, indices = scores.topk(min(top_k, len(scores)))
            yield Prediction(
                path, [(names[index], value) for index, value in zip(indices.tolist(), values.tolist(), strict=True)]
            )
    finally:
        reader.close()
