"""What happened to weights: figures that were measured and the run that trained them, kept beside the weights.

A figure is stated as measured only as long as it can be tied to the weights: every record holds a digest of the
weights and one of itself, so that neither may change without the record becoming void. Model cards read nothing else.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ..data.provenance import DatasetRecord
from ..errors import DnaError
from ..whole_files import whole_file


MEASUREMENTS_FILE = "measurements.json"
TRAINING_FILE = "training.json"
Record = TypeVar("Record", bound="WeightsRecord")


class RecordError(DnaError):
    """A record of what happened to weights is damaged, was edited, or belongs to other weights."""


@dataclass(frozen=True, kw_only=True)
class WeightsRecord:
    """Something that happened to one set of weights.

    Args:
        command: command that ran.
        seed: seed of the run, `None` if it had none.
        date: date and time, in UTC.
        environment: machine and versions of the packages.
        weights: digest of the weights, see [`~dna_hf.records.digest.weights_digest`].
        digest: SHA-256 of all other fields.
    """

    command: str
    seed: int | None
    date: str
    environment: dict[str, str]
    weights: str
    digest: str = ""

    def signed(self: Record) -> Record:
        """This record with its digest."""
        return replace(self, digest=_record_digest(self))

    def verify(self, weights: str) -> None:
        """Check that nothing has changed since.

        Args:
            weights: digest of the weights that this is to be stated about.

        Raises:
            RecordError: if the record was edited, or belongs to other weights.
        """
        if self.digest != _record_digest(self):
            raise RecordError(f"{self.what()} was changed by hand: do it again.")
        if self.weights != weights:
            raise RecordError(f"{self.what()} belongs to other weights than these: do it again.")

    def what(self) -> str:
        """What this is a record of, for messages."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Measurement(WeightsRecord):
    """Figures of one set of weights on one split of a data set.

    Args:
        task: name of the task on the Hub, e.g. `"image-classification"`.
        dataset: data set that was measured on.
        split: split of the data set that was measured on.
        metrics: name -> value, e.g. `top1` in [0, 1].
        samples: how many samples the figures are means of.
        views: how many views of each video were taken, and what of them was averaged; `None` for images.
        unreadable: how many further samples could not be read, and were left out.
    """

    task: str
    dataset: DatasetRecord
    split: str
    metrics: dict[str, float]
    samples: int
    views: str | None = None
    unreadable: int = 0

    def what(self) -> str:
        """What this is a record of, for messages."""
        return f"the measurement on {self.dataset.name} ({self.split})"


@dataclass(frozen=True, kw_only=True)
class TrainingRun(WeightsRecord):
    """The run that made one set of weights.

    Args:
        dataset: data set that was trained on.
        settings: sections of the run's configuration, as given.
        seconds: wall time of training, evaluations included.
        samples_per_second: throughput over the wall time of training.
        peak_memory: largest memory of the process in bytes: of the GPU where there is one, else of the CPU.
        resumed: whether the run had been stopped before; then time and throughput are of its last part.
        started_from: checkpoint that the weights started from, as a name on the Hub where it has one; `None`: fresh.
        processes: how many processes trained together.
    """

    dataset: DatasetRecord
    settings: dict[str, dict[str, Any]]
    seconds: float
    samples_per_second: float = 0.0
    peak_memory: int = 0
    resumed: bool = False
    started_from: str | None = None
    processes: int = 1

    def what(self) -> str:
        """What this is a record of, for messages."""
        return f"the training run on {self.dataset.name}"


def record_measurement(folder: str | Path, measurement: Measurement) -> None:
    """Add figures to a checkpoint folder; figures of the same split of the same data, or of other weights, go."""
    kept = [
        other
        for other in read_measurements(folder)
        if other.weights == measurement.weights
        and (other.dataset.name, other.dataset.config, other.split)
        != (measurement.dataset.name, measurement.dataset.config, measurement.split)
    ]
    _write(Path(folder, MEASUREMENTS_FILE), [asdict(each) for each in (*kept, measurement.signed())])


def read_measurements(folder: str | Path) -> list[Measurement]:
    """Read the figures of a checkpoint folder; none if there are none. They are not verified yet.

    Raises:
        RecordError: if the file is damaged.
    """
    entries = _read(Path(folder, MEASUREMENTS_FILE), list) or []
    return [_parse(Measurement, entry, folder) for entry in entries]


def record_training(folder: str | Path, run: TrainingRun) -> None:
    """Write down the run that made the weights of a checkpoint folder."""
    _write(Path(folder, TRAINING_FILE), asdict(run.signed()))


def read_training(folder: str | Path) -> TrainingRun | None:
    """Read the run that made the weights of a checkpoint folder, not verified yet; `None` if there is no record.

    Raises:
        RecordError: if the file is damaged.
    """
    entry = _read(Path(folder, TRAINING_FILE), dict)
    return None if entry is None else _parse(TrainingRun, entry, folder)


def _record_digest(record: WeightsRecord) -> str:
    # as it will be read again: JSON has no numbers as keys, and no tuples
    content = json.loads(json.dumps(asdict(record)))
    del content["digest"]
    # what says nothing is left out: records that were made before these fields came keep their digests
    for name in ("views", "unreadable"):
        if not content.get(name):
            content.pop(name, None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: Any) -> None:
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _read(path: Path, kind: type) -> Any:
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{str(path)!r} is damaged: remove it.") from error
    if not isinstance(content, kind):
        raise RecordError(f"{str(path)!r} is damaged: remove it.")
    return content


def _parse(cls: type[Record], entry: Any, folder: str | Path) -> Record:
    try:
        return cls(**entry | {"dataset": DatasetRecord(**entry["dataset"])})
    except (TypeError, KeyError) as error:
        raise RecordError(f"a record of {cls.__name__} in {str(folder)!r} is damaged: remove it.") from error
