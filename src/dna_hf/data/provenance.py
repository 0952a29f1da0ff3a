"""Where data came from, as far as it says so itself."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import ImageDataArguments, VideoDataArguments


if TYPE_CHECKING:
    from .clips import LabelledVideos
    from .labelled_images import LabelledImages
    from .multiple_choice import QuestionFile


@dataclass(frozen=True)
class DatasetRecord:
    """Where data came from.

    Args:
        name: name on the Hub, the last part of a path, or the name of an embedded data set.
        config: configuration of a Hub data set.
        revision: commit, tag or branch of a Hub data set.
        licence: licence that the data set states, `None` where it states none.
        homepage: address that the data set states, `None` where it states none.
        splits: split name -> number of rows read, `None` where it was streamed.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    licence: str | None = None
    homepage: str | None = None
    splits: dict[str, int | None] = field(default_factory=dict)


def provenance(arguments: ImageDataArguments, *splits: "LabelledImages") -> DatasetRecord:
    """Write down where splits came from.

    Args:
        arguments: fields of the `data` section that were asked for.
        splits: splits that were read.
    """
    info = splits[0].rows.info
    return DatasetRecord(
        name=public_name(arguments.dataset),
        config=arguments.dataset_config,
        revision=arguments.dataset_revision,
        licence=info.license or None,
        homepage=info.homepage or None,
        splits={split.name: None if split.is_stream else len(split) for split in splits},
    )


def video_provenance(arguments: VideoDataArguments, *splits: "LabelledVideos") -> DatasetRecord:
    """Write down where splits of videos came from; the protocol stands for the configuration."""
    return DatasetRecord(
        name=public_name(arguments.dataset),
        config=arguments.protocol,
        splits={split.name: len(split) for split in splits},
    )


def question_provenance(file: "QuestionFile", questions: int) -> DatasetRecord:
    """Write down which file so many questions came from; its format stands for the configuration."""
    return DatasetRecord(name=file.name, config=file.format, splits={"questions": questions})


def public_name(dataset: str) -> str:
    """The last part of a local path, for where it lay is nobody else's business; any other name as it is."""
    path = Path(dataset).expanduser()
    return path.resolve().name if path.exists() else dataset
