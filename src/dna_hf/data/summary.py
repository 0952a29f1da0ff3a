"""What a data set holds, before it is used: counts, classes, sizes, duplicates, what is left out."""

import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..whole_files import whole_file
from .arguments import EMBEDDED_IMAGES, EMBEDDED_VIDEOS, CommonDataArguments, ImageDataArguments
from .files import EMPTY
from .inspection import Inspection, Sample, inspect_images, inspect_videos, relative
from .problem_types import MULTI_LABEL, REGRESSION
from .provenance import public_name
from .splits import LeftOut, Split


if TYPE_CHECKING:
    from .file_summary import FileSummary


SUMMARY_FILE = "data_summary.json"
# how long a run may inspect its images before it starts, in seconds
RUN_SECONDS = 2.0
# classes from which on a table shows the smallest and the largest alone, and how many of either
MANY_CLASSES, SHOWN_CLASSES = 12, 3
# times that the largest class may be as large as the smallest one before it is worth a word
IMBALANCE = 100
# names that a sentence gives
EXAMPLES = 3
# characters of the names of all classes in a row
NAMES_WIDTH = 90
# kinds of sizes and modes that are listed, and what stands where there are none
LISTED, UNREADABLE = 5, "none can be read"
# name and value of each fact about a model and what is done with it, as text for a table
Facts = Sequence[tuple[str, str]]


@dataclass
class SplitSummary:
    """What a split holds.

    Args:
        name: name of the split.
        samples: number of samples; `None` for a stream, which is not read.
        classes: class -> number of samples, in the order of the labels; empty for a stream, or without classes.
        values: output of a regression -> its smallest value, its mean and its largest value.
        unlabelled: number of samples of several labels that have none.
    """

    name: str
    samples: int | None
    classes: dict[str, int] = field(default_factory=dict)
    values: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    unlabelled: int = 0

    def counted(self, unit: str) -> str:
        """The number of samples, and of the classes that they are of, as text."""
        if self.samples is None:
            return "a stream, which is not counted"
        there = [count for count in self.classes.values() if count]
        text = f"{self.samples:,} {unit}"
        if not self.classes:
            values = [f"{n} from {low:g} to {high:g}, mean {mean:g}" for n, (low, mean, high) in self.values.items()]
            return "; ".join([text, *values])
        missing = f" of {len(self.classes):,}" if len(there) < len(self.classes) else ""
        text += f", {len(there):,}{missing} classes"
        if len(set(there)) == 1:
            return f"{text}, {there[0]:,} each"
        return f"{text}, {min(there):,} to {max(there):,} each" if there else text


@dataclass
class DataSummary:
    """What a data set holds.

    Args:
        dataset: name or path of the data set, as it was given.
        origin: where it comes from: embedded, a folder, a file, or the Hub with the revision.
        unit: what its samples are called, in the plural.
        splits: its splits.
        inspection: what an inspection of the samples found, `None` where none was taken.
        left_out: files and rows that are in no split.
        notes: sentences about what was decided: what is held out, where labels come from.
    """

    dataset: str
    origin: str
    unit: str
    splits: list[SplitSummary]
    inspection: Inspection | None = None
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of each fact, as text for a table."""
        rows = [("from", self.origin)]
        rows += [(split.name, split.counted(self.unit)) for split in self.splits]
        rows += self._balance()
        if self.inspection is not None and self.inspection.seen:
            rows += self._seen_rows(self.inspection)
        rows += [("left out", each) for each in _reasons(self.left_out)]
        return rows + [("note", note) for note in self.notes]

    def _balance(self) -> list[tuple[str, str]]:
        """The largest and the smallest class of the first split, the one to train on; classes of one size by name."""
        counts = self.splits[0].classes
        there = {name: count for name, count in counts.items() if count}
        if not there:
            return []
        if len(set(there.values())) == 1:
            return [("classes", textwrap.shorten(", ".join(there), NAMES_WIDTH, placeholder=" ..."))]
        small, large = min(there, key=there.__getitem__), max(there, key=there.__getitem__)
        ratio = f"{there[large] / there[small]:,.1f}, from {small!r} to {large!r} in {self.splits[0].name}"
        return [("largest / smallest class", ratio)]

    def _seen_rows(self, found: Inspection) -> list[tuple[str, str]]:
        of = "all" if found.is_whole else f"{found.seen:,}, drawn at random, of"
        rows = [
            ("looked at", f"{of} {found.total:,} {self.unit}"),
            ("sizes", _sizes(found)),
            ("modes" if self.unit == "images" else "frame rates", _listed(dict(found.modes.most_common()))),
        ]
        if len(self.splits) == 1:
            return rows
        across = sum(map(len, found.across().values()))
        duplicates = f"{across:,}" if across else "none"
        return [*rows, ("duplicates across splits", duplicates + ("" if found.is_whole else " among those looked at"))]

    def class_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The header and the rows of a table of the classes; of many, the largest and the smallest of the first split.

        Streams have no rows, nor have splits whose classes have one size: there is nothing to see.
        """
        counted = [split for split in self.splits if split.classes]
        if all(len(set(split.classes.values())) == 1 for split in counted):
            counted = []
        header = (f"{self.unit} of class", *(split.name for split in counted))
        if not counted:
            return header, []
        names = sorted(counted[0].classes, key=lambda name: -counted[0].classes[name])
        if len(names) <= MANY_CLASSES:
            return self.all_classes()

        def row(name: str) -> tuple[str, ...]:
            return (name, *(f"{split.classes.get(name, 0):,}" for split in counted))

        between = names[SHOWN_CLASSES:-SHOWN_CLASSES]
        rest = (f"{sum(split.classes.get(name, 0) for name in between):,}" for split in counted)
        middle = (f"{len(between):,} classes between", *rest)
        return header, [*map(row, names[:SHOWN_CLASSES]), middle, *map(row, names[-SHOWN_CLASSES:])]

    def all_classes(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        """The header and the rows of a table of all classes, in the order of the labels."""
        counted = [split for split in self.splits if split.classes]
        names = list(dict.fromkeys(name for split in counted for name in split.classes))
        rows = [(name, *(f"{split.classes.get(name, 0):,}" for split in counted)) for name in names]
        return (f"{self.unit} of class", *(split.name for split in counted)), rows

    def left_out_lines(self) -> list[str]:
        """What is left out and why, a line for each."""
        return [f"{each.path}: {each.reason}" for each in self.left_out]

    def findings(self) -> list[str]:
        """A sentence for each thing that is worth a look before the data is used."""
        sentences = self._empty_folders() + self._alike()
        for split in self.splits:
            if split.unlabelled:
                what = self._counted(split.unlabelled, f"of {split.name!r} has", f"of {split.name!r} have")
                sentences.append(f"{what} none of the classes.")
            for count, what in ((0, f"no {self.unit}"), (1, f"a single {self.unit.removesuffix('s')}")):
                names = [name for name, number in split.classes.items() if number == count]
                if names:
                    verb = "has" if len(names) == 1 else "have"
                    sentences.append(f"{_classes(names)} {verb} {what} in {split.name!r}: {_examples(names)}.")
            there = [number for number in split.classes.values() if number]
            if there and max(there) > IMBALANCE * min(there):
                times = f"{max(there) / min(there):,.0f} times"
                sentences.append(
                    f"the largest class of {split.name!r} has {times} as many {self.unit} as the smallest."
                )
        return sentences + (self._copied(self.inspection) if self.inspection is not None else [])

    def _empty_folders(self) -> list[str]:
        paths = [each.path for each in self.left_out if each.reason == EMPTY]
        what = "1 folder holds" if len(paths) == 1 else f"{len(paths):,} folders hold"
        return [f"{what} no {self.unit}: {_examples(paths)}."] if paths else []

    def _alike(self) -> list[str]:
        """Classes whose names differ only in case, which may be meant to be one."""
        alike: dict[str, list[str]] = {}
        for name in dict.fromkeys(name for split in self.splits for name in split.classes):
            alike.setdefault(name.casefold(), []).append(name)
        shown = [" and ".join(names) for names in alike.values() if len(names) > 1]
        return [f"the names of some classes differ only in case: {_examples(shown)}."] if shown else []

    def _copied(self, found: Inspection) -> list[str]:
        """What an inspection of the samples found, in sentences."""
        sentences = []
        for (one, other), pairs in found.across().items():
            what = self._counted(len(pairs), f"of {other!r} is", f"of {other!r} are")
            sentences.append(f"{what} in {one!r}, too: {_examples(map(_same, pairs))}.")
        for split, pairs in found.within().items():
            what = self._counted(len(pairs), f"of {split!r} repeats another one", f"of {split!r} repeat others")
            sentences.append(f"{what}: {_examples(map(_same, pairs))}.")
        contradictions = found.contradictions()
        if contradictions:
            shown = _examples(f"{_same(pair)}, {pair[0].label!r} and {pair[1].label!r}" for pair in contradictions)
            sentences.append(f"{self._counted(len(contradictions), 'is', 'are')} in several classes: {shown}.")
        if found.unreadable:
            shown = _examples(f"{each.path} ({each.reason})" for each in found.unreadable)
            sentences.append(f"{self._counted(len(found.unreadable), 'cannot', 'cannot')} be read: {shown}.")
        return sentences

    def _counted(self, count: int, one: str, several: str) -> str:
        """So many samples, and what follows of one or of several."""
        return f"1 {self.unit.removesuffix('s')} {one}" if count == 1 else f"{count:,} {self.unit} {several}"

    def report(self) -> dict[str, Any]:
        """The summary in the layout of `data_summary.json`; of a local path, the last part stands for the data set."""
        content: dict[str, Any] = {
            "dataset": public_name(self.dataset),
            "from": self.origin,
            "unit": self.unit,
            "splits": {
                split.name: {"samples": split.samples, "classes": split.classes, "values": split.values}
                for split in self.splits
            },
            "left_out": [asdict(each) for each in self.left_out],
            "notes": self.notes,
            "look_at": self.findings(),
        }
        if self.inspection is not None:
            content |= {
                "looked_at": {"samples": self.inspection.seen, "of": self.inspection.total},
                "sizes": {
                    f"{width}x{height}": count for (width, height), count in self.inspection.sizes.most_common()
                },
                "modes": dict(self.inspection.modes.most_common()),
                "unreadable": [asdict(each) for each in self.inspection.unreadable],
                "duplicates": [[sample._asdict() for sample in group] for group in self.inspection.duplicates],
            }
        return content


# is told what the data of a run holds, and which model does what with it, before the first step
Announce = Callable[["DataSummary | FileSummary", Facts], object]


def write_summary(
    path: Path,
    summary: "DataSummary | FileSummary",
    facts: Facts = (),
    evaluation: "FileSummary | None" = None,
) -> None:
    """Write a summary to a file.

    Args:
        path: JSON file to write.
        summary: what the data set, or a file, holds.
        facts: name and value of each fact about the model and the run that use it, as text.
        evaluation: what the file to evaluate on holds, where that is another one.
    """
    content = summary.report() | ({"run": dict(facts)} if facts else {})
    if evaluation is not None:
        content["evaluation"] = evaluation.report()
    with whole_file(path) as unfinished:
        unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def summarize(arguments: CommonDataArguments, splits: Sequence[Split], *, seconds: float = RUN_SECONDS) -> DataSummary:
    """Say what splits of a data set hold.

    Args:
        arguments: fields of the `data` section that the splits were read by.
        splits: the splits, the one to train on first. Streams are not read.
        seconds: how long images may be decoded for their sizes and duplicates.
    """
    folder = data_folder(arguments.dataset)
    countable: Any = [split for split in splits if not split.is_stream]
    inspect = inspect_images if isinstance(arguments, ImageDataArguments) else inspect_videos
    return DataSummary(
        dataset=arguments.dataset,
        origin=_origin(arguments),
        unit=splits[0].unit,
        splits=[_split(split) for split in splits],
        inspection=inspect(countable, seconds, folder) if countable else None,
        left_out=list(dict.fromkeys(each for split in splits for each in _left_out(split, folder))),
        notes=list(dict.fromkeys(note for split in splits for note in split.notes)),
    )


def data_folder(dataset: str) -> Path | None:
    """The folder of a local data set, which the names of its files start from."""
    path = Path(dataset).expanduser()
    return path if path.is_dir() else path.parent if path.is_file() else None


def _split(split: Split) -> SplitSummary:
    if split.is_stream:
        return SplitSummary(split.name, None)
    labels = split.labels()
    if split.problem_type == REGRESSION:
        ends = zip(labels.min(axis=0), labels.mean(axis=0), labels.max(axis=0), strict=True)
        values = dict(zip(split.class_names, [(float(a), float(b), float(c)) for a, b, c in ends], strict=True))
        return SplitSummary(split.name, len(split), values=values)
    if split.problem_type == MULTI_LABEL:
        counts = (labels > 0).sum(axis=0).tolist()
        unlabelled = int((~(labels > 0).any(axis=1)).sum())
        return SplitSummary(split.name, len(split), _by_name(split.class_names, counts), unlabelled=unlabelled)
    counts = split.class_counts().tolist()
    return SplitSummary(split.name, len(split), _by_name(split.class_names, counts))


def _by_name(names: Sequence[str], counts: Sequence[int]) -> dict[str, int]:
    """Counts by name; of classes with one name, the later ones are told apart by their number."""
    found: dict[str, int] = {}
    for number, (name, count) in enumerate(zip(names, counts, strict=True)):
        found[f"{name} ({number})" if name in found else name] = count
    return found


def _left_out(split: Any, folder: Path | None) -> list[LeftOut]:
    """What of the data set is in no split; of videos also the files that are listed but not there."""
    missing = [LeftOut(path, "the file is missing") for path in getattr(split, "missing", ())]
    return [LeftOut(relative(each.path, folder), each.reason) for each in (*split.left_out, *missing)]


def _origin(arguments: Any) -> str:
    """Where a data set comes from."""
    if arguments.dataset in (EMBEDDED_IMAGES, EMBEDDED_VIDEOS):
        return "embedded in dna-hf"
    path = Path(arguments.dataset).expanduser()
    protocol = getattr(arguments, "protocol", None)
    if path.is_dir():
        return "a folder" + (f", divided by {protocol}" if protocol else "")
    if path.is_file():
        return f"a file ({path.suffix})"
    config = f", configuration {arguments.dataset_config}" if arguments.dataset_config else ""
    return f"the Hub{config}, revision {arguments.dataset_revision or 'main'}"


def _sizes(found: Inspection) -> str:
    """All sizes where there are few, else the smallest, the largest and the commonest."""
    by_area = sorted(found.sizes, key=lambda size: size[0] * size[1])
    if not by_area:
        return UNREADABLE
    shown = {f"{width}x{height}": found.sizes[width, height] for width, height in by_area}
    if len(shown) <= LISTED:
        return f"{_listed(shown)} pixels"
    texts = list(shown)
    (width, height), count = found.sizes.most_common(1)[0]
    return (
        f"{texts[0]} to {texts[-1]} pixels, {len(texts):,} sizes, most often {width}x{height} "
        f"({100 * count / sum(found.sizes.values()):.0f} %)"
    )


def _listed(counts: dict[str, int]) -> str:
    """What there is, with its number where there are several."""
    if not counts:
        return UNREADABLE
    if len(counts) == 1:
        return next(iter(counts))
    shown = [f"{name} ({count:,})" for name, count in list(counts.items())[:LISTED]]
    return ", ".join(shown) + (f" and {len(counts) - LISTED} more" if len(counts) > LISTED else "")


def _reasons(left_out: Sequence[LeftOut]) -> list[str]:
    """Each reason with the number of what it leaves out and some names, the commonest one first."""
    paths: dict[str, list[str]] = {}
    for each in left_out:
        paths.setdefault(each.reason, []).append(each.path)
    by_count = sorted(paths.items(), key=lambda item: -len(item[1]))
    return [f"{len(some):,}: {reason}: {_examples(some)}" for reason, some in by_count] or ["nothing"]


def _classes(names: Sequence[str]) -> str:
    return "one class" if len(names) == 1 else f"{len(names):,} classes"


def _same(pair: tuple[Sample, Sample]) -> str:
    return f"{pair[1].name} = {pair[0].name}"


def _examples(texts: Any) -> str:
    """The first few of some texts, and how many more there are."""
    texts = list(map(str, texts))
    more = len(texts) - EXAMPLES
    return ", ".join(texts[:EXAMPLES]) + (f" and {more:,} more" if more > 0 else "")
