"""Who is trained on and who is tested on: the protocols of Toyota Smarthome and NTU RGB+D 60.

A protocol reads nothing but file names. The order of its classes is fixed here and stored with the weights: other
code numbers some of the classes differently (Usetablet and Usetelephone of Smarthome, for one).

| protocol | training | validation | test | classes |
|---|---|---|---|---|
| `smarthome-cs` | 11 subjects | | the other 7 subjects | 31 |
| `smarthome-cv1` | camera 1 | camera 5 | camera 2 | 19 |
| `smarthome-cv2` | cameras 1, 3, 4, 6, 7 | camera 5 | camera 2 | 19 |
| `ntu60-xsub` | 20 subjects | | the other 20 subjects | 60 |
| `ntu60-xview` | cameras 2, 3 | | camera 1 | 60 |

Sources: Toyota Smarthome, ICCV 2019; NTU RGB+D, arXiv:1604.02808.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .errors import DataError
from .files import VIDEO_SUFFIXES, LeftOut, is_video, look_into


SMARTHOME_CLASSES = (
    *("Cook.Cleandishes", "Cook.Cleanup", "Cook.Cut", "Cook.Stir", "Cook.Usestove", "Cutbread", "Drink.Frombottle"),
    *("Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack", "Enter", "Getup", "Laydown"),
    *("Leave", "Makecoffee.Pourgrains", "Makecoffee.Pourwater", "Maketea.Boilwater", "Maketea.Insertteabag"),
    *("Pour.Frombottle", "Pour.Fromcan", "Pour.Fromkettle", "Readbook", "Sitdown", "Takepills", "Uselaptop"),
    *("Usetablet", "Usetelephone", "Walk", "WatchTV"),
)
# the classes that the cameras share
SMARTHOME_VIEW_CLASSES = (
    *("Cutbread", "Drink.Frombottle", "Drink.Fromcan", "Drink.Fromcup", "Drink.Fromglass", "Eat.Attable", "Eat.Snack"),
    *("Enter", "Getup", "Leave", "Pour.Frombottle", "Pour.Fromcan", "Readbook", "Sitdown", "Takepills", "Uselaptop"),
    *("Usetablet", "Usetelephone", "Walk"),
)
NTU60_CLASSES = (
    *("drink water", "eat meal", "brush teeth", "brush hair", "drop", "pick up", "throw", "sit down", "stand up"),
    *("clapping", "reading", "writing", "tear up paper", "put on jacket", "take off jacket", "put on a shoe"),
    *("take off a shoe", "put on glasses", "take off glasses", "put on a hat", "take off a hat", "cheer up"),
    *("hand waving", "kicking something", "reach into pocket", "hopping", "jump up", "phone call", "play with phone"),
    *("type on a keyboard", "point to something", "taking a selfie", "check time", "rub two hands", "nod head"),
    *("shake head", "wipe face", "salute", "put palms together", "cross hands in front", "sneeze", "staggering"),
    *("falling down", "headache", "chest pain", "back pain", "neck pain", "nausea", "fan self", "punch", "kicking"),
    *("pushing", "pat on back", "point finger", "hugging", "giving object", "touch pocket", "shaking hands"),
    *("walking towards", "walking apart"),
)
SMARTHOME_NAME = re.compile(r"(?P<activity>[A-Za-z.]+)_p(?P<subject>\d+)_r\d+_v\d+_c(?P<camera>\d+)")
NTU_NAME = re.compile(r"S\d{3}C(?P<camera>\d{3})P(?P<subject>\d{3})R\d{3}A(?P<activity>\d{3})(_rgb)?")


@dataclass(frozen=True)
class Protocol:
    """How the clips of a data set are divided.

    Args:
        name: name of the protocol.
        pattern: what file names without their suffix look like, with the groups `activity`, `subject` and `camera`.
        class_names: class names in the order of the labels.
        divided_by: what decides about the split, `"subject"` or `"camera"`.
        splits: split -> numbers of the subjects or cameras.
    """

    name: str
    pattern: re.Pattern
    class_names: tuple[str, ...]
    divided_by: Literal["subject", "camera"]
    splits: dict[str, frozenset[int]]


@dataclass
class ProtocolSplits:
    """Clips of a data set, divided by a protocol.

    Args:
        protocol: protocol that divided the clips.
        clips: split -> pairs (path, label), in the order of the paths.
        other_classes: path of a clip of an activity that is no class of the protocol -> the activity.
        unassigned: clips of subjects or cameras that are in no split.
        unknown: video files whose names the protocol does not understand.
        missing: names of clips that were listed and for which there is no file.
    """

    protocol: Protocol
    clips: dict[str, list[tuple[str, int]]]
    other_classes: dict[str, str] = field(default_factory=dict)
    unassigned: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """Split -> class name -> number of clips, classes without clips included."""
        result = {}
        for split, clips in self.clips.items():
            found = Counter(label for _, label in clips)
            result[split] = {name: found[label] for label, name in enumerate(self.protocol.class_names)}
        return result

    def left_out(self) -> list[LeftOut]:
        """Files that are in no split, and why; of an activity that is no class, also the class of the nearest name."""
        rules = self.protocol
        reasons = {activity: _no_class(activity, rules) for activity in set(self.other_classes.values())}
        return [
            *(LeftOut(path, reasons[activity]) for path, activity in self.other_classes.items()),
            *(LeftOut(path, f"its {rules.divided_by} is in no split of {rules.name}") for path in self.unassigned),
            *(LeftOut(path, f"its name is none of {rules.name}") for path in self.unknown),
        ]


def _no_class(activity: str, rules: Protocol) -> str:
    """Why an activity is left out."""
    reason = f"{activity!r} is no class of {rules.name}"
    if activity in SMARTHOME_CLASSES or activity.isdigit():
        return reason
    by_small = {name.lower(): name for name in rules.class_names}
    nearest = difflib.get_close_matches(activity.lower(), by_small, n=1, cutoff=0.7)
    return f"{reason}: is {by_small[nearest[0]]!r} meant?" if nearest else reason


def _numbers(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "smarthome-cs",
            SMARTHOME_NAME,
            SMARTHOME_CLASSES,
            "subject",
            {"train": _numbers(3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25), "test": _numbers(2, 10, 11, 14, 16, 18, 20)},
        ),
        Protocol(
            "smarthome-cv1",
            SMARTHOME_NAME,
            SMARTHOME_VIEW_CLASSES,
            "camera",
            {"train": _numbers(1), "validation": _numbers(5), "test": _numbers(2)},
        ),
        Protocol(
            "smarthome-cv2",
            SMARTHOME_NAME,
            SMARTHOME_VIEW_CLASSES,
            "camera",
            {"train": _numbers(1, 3, 4, 6, 7), "validation": _numbers(5), "test": _numbers(2)},
        ),
        Protocol(
            "ntu60-xsub",
            NTU_NAME,
            NTU60_CLASSES,
            "subject",
            {
                "train": _numbers(1, 2, 4, 5, 8, 9, *range(13, 20), 25, 27, 28, 31, 34, 35, 38),
                "test": _numbers(3, 6, 7, 10, 11, 12, 20, 21, 22, 23, 24, 26, 29, 30, 32, 33, 36, 37, 39, 40),
            },
        ),
        Protocol(
            "ntu60-xview",
            NTU_NAME,
            NTU60_CLASSES,
            "camera",
            {"train": _numbers(2, 3), "test": _numbers(1)},
        ),
    )
}


def divide(paths: Iterable[str | Path], protocol: str, *, expected: Iterable[str] | None = None) -> ProtocolSplits:
    """Divide clips by their file names.

    Args:
        paths: paths of video files, which are not opened.
        protocol: one of [`PROTOCOLS`].
        expected: names (without folder and suffix) of the clips that should be there, to find what is missing.

    Returns:
        The splits, and what is in none of them.

    Raises:
        DataError: for an unknown protocol, two files of one name, or names of which the protocol understands none.
    """
    if protocol not in PROTOCOLS:
        raise DataError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}.")
    rules = PROTOCOLS[protocol]
    result = ProtocolSplits(rules, {split: [] for split in rules.splits})
    names: dict[str, str] = {}
    for path in sorted(map(str, paths)):
        name = Path(path).stem
        if name in names:
            raise DataError(f"two files are the clip {name!r}: {names[name]!r} and {path!r}.")
        names[name] = path
        _assign(path, name, result)
    if len(result.unknown) == len(names):
        example = next(iter(names), "")
        raise DataError(f"no file name is one of {protocol} (e.g. {example!r}): choose the folder of its videos.")
    result.missing = sorted(set(expected or ()) - set(names))
    return result


def find_videos(folder: str | Path) -> list[str]:
    """Paths of all video files in a folder and its subfolders, sorted.

    Raises:
        DataError: if there is no such folder, or no video in it.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise DataError(f"there is no folder {str(folder)!r}.")
    found = [path for path in look_into(folder).all_files() if is_video(path)]
    if not found:
        raise DataError(f"folder {str(folder)!r} has no videos ({', '.join(VIDEO_SUFFIXES[:5])}, ...).")
    return found


def _assign(path: str, name: str, result: ProtocolSplits) -> None:
    rules = result.protocol
    match = rules.pattern.fullmatch(name)
    if match is None:
        result.unknown.append(path)
        return
    label = _label(match["activity"], rules)
    if label is None:
        result.other_classes[path] = match["activity"]
        return
    number = int(match[rules.divided_by])
    for split, numbers in rules.splits.items():
        if number in numbers:
            result.clips[split].append((path, label))
            return
    result.unassigned.append(path)


def _label(activity: str, rules: Protocol) -> int | None:
    """Label of an activity, which a file name gives by its name or, from 1, by its number."""
    if activity.isdigit():
        return int(activity) - 1 if 1 <= int(activity) <= len(rules.class_names) else None
    return rules.class_names.index(activity) if activity in rules.class_names else None
