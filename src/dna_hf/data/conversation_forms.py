"""One sample of a file of conversations, in any of the usual forms, as messages of a chat template.

- LLaVA, VideoLLaMA3: `{"video": "a.mp4", "conversations": [{"from": "human", "value": "<video> What?"},
  {"from": "gpt", "value": "A carrot."}]}`
- ShareGPT, LLaMA-Factory: the same with `videos` and `images`, lists, and `system`; or with `messages`
- OpenAI, TRL: `{"messages": [{"role": "user", "content": [{"type": "video", "video": "a.mp4"},
  {"type": "text", "text": "What?"}]}, {"role": "assistant", "content": "A carrot."}]}`

The turns are in `conversations` or `messages`, each with `from` and `value`, or with `role` and `content`, a text or a
list of parts. Files stand in the sample (`video`, `videos`, `image`, `images`) or in the parts. Where those of the
sample stand, the tags `<video>` and `<image>` say, or parts without a file; without any they stand before the first
question. A part, or a sample with one video, may say `start` and `end` in seconds, `fps`, `max_frames` and
`num_frames`. A key that is not known is an error.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .vocabulary import END, START, seconds_of, unknown_key


MEDIA = ("image", "video")
# what the turns are in, and what each of them consists of
TURNS = ("conversations", "messages")
TURN_KEYS = (("from", "value"), ("role", "content"))
ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant"), "assistant"),
    "system": "system",
}
SYSTEM = ("system", "system_prompt")
# fields of a sample that hold files, and fields of a part that hold its file
FIELDS = {"video": ("video", "videos", "video_path"), "image": ("image", "images", "image_path")}
PART_FIELDS = {
    "video": ("video", "video_path", "video_url", "path", "url"),
    "image": ("image", "image_path", "image_url", "path", "url"),
}
PART_TYPES = {"text": "text", "video": "video", "video_url": "video", "image": "image", "image_url": "image"}
# how a video is read, whatever the checkpoint's processor says
READING = {"fps": float, "max_frames": int, "num_frames": int}
LARGEST = {"fps": 1_000, "max_frames": 100_000, "num_frames": 100_000}
TAG = re.compile(r"<(image|video)>", re.IGNORECASE)


class WrongSampleError(Exception):
    """What is wrong with a field of a sample; the message begins with the field."""


@dataclass
class Visual:
    """An image or a video in a turn.

    Args:
        kind: `"image"` or `"video"`.
        path: absolute path; `None` for a place that a file of the sample goes to.
        settings: part and reading of a video: `start`, `end`, `fps`, `max_frames`, `num_frames`.
    """

    kind: str
    path: str | None
    settings: dict[str, Any]

    def content(self) -> dict[str, Any]:
        """The part of a message."""
        source: Any = self.path
        times = {name: self.settings.get(name) for name in ("start", "end")}
        if any(time is not None for time in times.values()):
            source = {"path": self.path, **times}
        reading = {name: value for name, value in self.settings.items() if name in READING}
        return {"type": self.kind, self.kind: source, **reading}


@dataclass
class Turn:
    """A turn: its role, and texts and visuals in order."""

    role: str
    parts: list[str | Visual]


def read_sample(entry: Any, folder: Path, system: str | None = None) -> tuple[list[dict[str, Any]], str]:
    """A sample as messages of a chat template, with absolute paths, and the form that it has.

    Args:
        entry: the sample, as JSON.
        folder: folder that paths start from.
        system: system turn of samples that have none.

    Raises:
        WrongSampleError: naming the field that is wrong.
    """
    if not isinstance(entry, dict):
        raise WrongSampleError(f"a sample must be an object, got {kind_of_value(entry)}")
    field = _turns_field(entry)
    wrong = unknown_key(entry, ("id", *TURNS, *SYSTEM, *FIELDS["video"], *FIELDS["image"], *START, *END, *READING))
    if wrong is not None:
        raise WrongSampleError(f"it {wrong}")
    files = {kind: _files(entry, kind, folder) for kind in MEDIA}
    turns, keys = _turns(entry[field], field, folder)
    _add_system(turns, entry, field, system)
    _check_roles(turns, field, keys)
    _place(turns, files, field)
    messages = [{"role": turn.role, "content": list(_content(turn))} for turn in turns]
    return messages, f"{field} with {' and '.join(keys)}"


def _turns_field(entry: dict[str, Any]) -> str:
    """The field with the turns."""
    given = [name for name in TURNS if name in entry]
    if len(given) == 2:
        raise WrongSampleError("it has both 'conversations' and 'messages': leave one out")
    name = given[0] if given else TURNS[0]
    if not isinstance(entry.get(name), list):
        raise WrongSampleError(f"field {name!r} must be a list of turns, got {kind_of_value(entry.get(name))}")
    return name


def _files(entry: dict[str, Any], kind: str, folder: Path) -> list[Visual]:
    """The images or videos in the fields of a sample."""
    given = [name for name in FIELDS[kind] if entry.get(name) is not None]
    if len(given) > 1:
        raise WrongSampleError(f"it has both {given[0]!r} and {given[1]!r}: leave one out")
    settings = _settings(entry, "it") if kind == "video" else {}
    if not given:
        if settings:
            raise WrongSampleError(f"it has {next(iter(settings))!r}, but no video of its own: write it into the part")
        return []
    names = entry[given[0]]
    names = [names] if isinstance(names, str | dict) else names
    if not isinstance(names, list) or not all(names) or not all(isinstance(name, str | dict) for name in names):
        raise WrongSampleError(f"field {given[0]!r} must be a path or a list of paths, got {kind_of_value(names)}")
    where = f"field {given[0]!r}"
    found = [_visual(name if isinstance(name, dict) else {kind: name}, kind, where, folder) for name in names]
    if settings and len(found) > 1:
        raise WrongSampleError(f"it has {next(iter(settings))!r} and several videos: write it into their parts")
    for visual in found:
        visual.settings = _consistent(settings | visual.settings, "it")
    return found


def _turns(given: list[Any], field: str, folder: Path) -> tuple[list[Turn], tuple[str, str]]:
    """The turns from the first question on, a system turn before it included, and the keys that they have."""
    first = given[0] if given and isinstance(given[0], dict) else {}
    who, what = keys = TURN_KEYS[1] if TURN_KEYS[1][0] in first else TURN_KEYS[0]
    turns: list[Turn] = []
    for number, turn in enumerate(given, 1):
        where = f"field {field!r}, turn {number}"
        kinds = (str, list) if what == "content" else (str,)
        if not isinstance(turn, dict) or not isinstance(turn.get(who), str) or not isinstance(turn.get(what), kinds):
            wanted = "text and text or parts" if what == "content" else "both text"
            raise WrongSampleError(f"{where} must have {who!r} and {what!r}, {wanted}")
        wrong = unknown_key(turn, keys)
        if wrong is not None:
            raise WrongSampleError(f"{where} {wrong}")
        role = ROLES.get(turn[who])
        if role is None:
            wanted = "human, gpt or system" if who == "from" else "user, assistant or system"
            raise WrongSampleError(f"{where}: {who!r} must be {wanted}, got {turn[who]!r}")
        if role == "assistant" and not any(earlier.role == "user" for earlier in turns):
            continue
        parts = _parts(turn[what], where, folder)
        if not parts:
            raise WrongSampleError(f"{where}, from {turn[who]!r}, is empty")
        visual = next((part for part in parts if isinstance(part, Visual)), None)
        if role != "user" and visual is not None:
            raise WrongSampleError(f"{where}, from {turn[who]!r}, has a tag <{visual.kind}>")
        turns.append(Turn(role, parts))
    return turns, keys


def _parts(content: str | list[Any], where: str, folder: Path) -> list[str | Visual]:
    """Texts and visuals of a turn, in order."""
    if isinstance(content, str):
        return list(_tagged(content))
    parts: list[str | Visual] = []
    for number, part in enumerate(content, 1):
        here = f"{where}, part {number}"
        kind = PART_TYPES.get(str(part.get("type"))) if isinstance(part, dict) else None
        if kind is None:
            raise WrongSampleError(f"{here} must be an object with a type: {', '.join(PART_TYPES)}")
        if kind != "text":
            parts.append(_visual({name: value for name, value in part.items() if name != "type"}, kind, here, folder))
            continue
        if not isinstance(part.get("text"), str):
            raise WrongSampleError(f"{here} must have 'text', as text")
        wrong = unknown_key(part, ("type", "text"))
        if wrong is not None:
            raise WrongSampleError(f"{here} {wrong}")
        parts += _tagged(part["text"])
    return parts


def _tagged(text: str) -> Iterator[str | Visual]:
    """A text, and the places in it that tags stand for."""
    for number, piece in enumerate(TAG.split(text)):
        if number % 2:
            yield Visual(piece.lower(), None, {})
        elif piece.strip():
            yield piece.strip()


def _visual(part: dict[str, Any], kind: str, where: str, folder: Path) -> Visual:
    """An image or video that a part describes; without a file it is a place for one of the sample."""
    names = [name for name in PART_FIELDS[kind] if part.get(name) is not None]
    if names and isinstance(part[names[0]], dict):
        # {"video": {"video_path": ..., "fps": 1}}, {"image_url": {"url": ...}}
        if len(part) > 1:
            other = next(name for name in part if name != names[0])
            raise WrongSampleError(
                f"{where} has {other!r} beside an object in {names[0]!r}: write it into that object"
            )
        return _visual(part[names[0]], kind, where, folder)
    wrong = unknown_key(part, (*PART_FIELDS[kind], *START, *END, *READING) if kind == "video" else PART_FIELDS[kind])
    if wrong is not None:
        raise WrongSampleError(f"{where} {wrong}")
    if len(names) > 1:
        raise WrongSampleError(f"{where} has both {names[0]!r} and {names[1]!r}: leave one out")
    settings = _settings(part, where) if kind == "video" else {}
    return Visual(kind, _path(part[names[0]], where, kind, folder) if names else None, settings)


def _path(name: Any, where: str, kind: str, folder: Path) -> str:
    if not isinstance(name, str) or not name:
        raise WrongSampleError(f"{where} must be a path or a list of paths, got {kind_of_value(name)}")
    name = name.removeprefix("file://")
    if "://" in name or name.startswith("data:"):
        raise WrongSampleError(f"{where} names the address {name[:60]!r}: download it and name the file")
    # a video may be a folder of frames
    if not ((folder / name).is_file() or (kind == "video" and (folder / name).is_dir())):
        raise WrongSampleError(f"{where}: there is no file {str(folder / name)!r}")
    return str(folder / name)


def _settings(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Part and reading of a video."""
    settings: dict[str, Any] = {}
    for name, names in (("start", START), ("end", END), *((key, (key,)) for key in READING)):
        found = [key for key in names if given.get(key) is not None]
        if len(found) > 1:
            raise WrongSampleError(f"{where} has both {found[0]!r} and {found[1]!r}: leave one out")
        if found:
            settings[name] = _number(given[found[0]], f"{where}: {found[0]!r}", name)
    return _consistent(settings, where)


def _consistent(settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Settings of a video that do not contradict each other."""
    start, end = settings.get("start", 0), settings.get("end", math.inf)
    if end <= start:
        raise WrongSampleError(f"{where} ends at {end:g} s, which is not after its start at {start:g} s")
    for name in ("fps", "max_frames"):
        if name in settings and "num_frames" in settings:
            raise WrongSampleError(f"{where} has both {name!r} and 'num_frames': leave one out")
    return settings


def _number(value: Any, where: str, name: str) -> float | int:
    if name not in READING:
        seconds = seconds_of(value)
        if seconds is None:
            raise WrongSampleError(f"{where} must be seconds, got {value!r:.60}")
        return seconds
    kind = READING[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (kind is int and value != int(value)) or not 0 < value <= LARGEST[name]:
        wanted = f"a {'whole ' if kind is int else ''}number above 0 and at most {LARGEST[name]:,}"
        raise WrongSampleError(f"{where} must be {wanted}, got {value!r:.60}")
    return kind(value)


def _add_system(turns: list[Turn], entry: dict[str, Any], field: str, system: str | None) -> None:
    """Put a system turn before all others, where one is given."""
    given = [name for name in SYSTEM if entry.get(name) is not None]
    has_turn = any(turn.role == "system" for turn in turns)
    if given:
        text = entry[given[0]]
        if not isinstance(text, str):
            raise WrongSampleError(f"field {given[0]!r} must be text, got {kind_of_value(text)}")
        if has_turn or len(given) > 1:
            other = given[1] if len(given) > 1 else field
            raise WrongSampleError(f"it has a system turn in {given[0]!r} and in {other!r}: leave one out")
        # some files have an empty one
        system = text if text.strip() else system
    if system is not None and system.strip() and not has_turn:
        turns.insert(0, Turn("system", [system.strip()]))


def _check_roles(turns: list[Turn], field: str, keys: tuple[str, str]) -> None:
    names = ("human", "gpt") if keys[0] == "from" else ("user", "assistant")
    for role, who in zip(("user", "assistant"), names, strict=True):
        if role not in [turn.role for turn in turns]:
            learn = " to learn" if role == "assistant" else ""
            raise WrongSampleError(f"field {field!r} has no turn from {who!r}{learn}")


def _place(turns: list[Turn], files: dict[str, list[Visual]], field: str) -> None:
    """Put the files of a sample into their places; without any place, before the first question."""
    first = next(turn for turn in turns if turn.role == "user")
    places = [part for turn in turns for part in turn.parts if isinstance(part, Visual) and part.path is None]
    if files["video"] and not files["image"]:
        # released files name the video of a sample by either tag
        for place in places:
            place.kind = "video"
    for kind in MEDIA:
        own = [place for place in places if place.kind == kind]
        named = [part for turn in turns for part in turn.parts if isinstance(part, Visual) and part.path is not None]
        if files[kind] and not own and any(part.kind == kind for part in named):
            raise WrongSampleError(f"it names files in {kind!r} and in parts of its turns: leave one out")
        if not own:
            first.parts[:0] = files[kind]
        elif len(own) != len(files[kind]):
            raise WrongSampleError(
                f"field {field!r} has {len(own)} <{kind}> for {len(files[kind])} files in field {kind!r}"
            )
        for place, visual in zip(own, files[kind], strict=False):
            place.path, place.settings = visual.path, visual.settings | place.settings


def _content(turn: Turn) -> Iterator[dict[str, Any]]:
    for part in turn.parts:
        yield {"type": "text", "text": part} if isinstance(part, str) else part.content()


def kind_of_value(value: Any) -> str:
    """What a value of JSON is, in words."""
    if value is None:
        return "nothing"
    return {dict: "an object", list: "a list", str: "text", bool: "true or false"}.get(type(value), "a number")
