"""Multiple-choice questions about videos and images: files of questions, where their videos lie, and what is wrong.

Three kinds of files are read, all JSON (a list) or JSON Lines:

- `perception_mcq`: Ego-in-Exo PerceptionMCQ in both published forms. Each question is asked once for every view.
- `egoschema`: EgoSchema, as its authors publish it (`q_uid`, `option 0` ...) and as on the Hub (`question_idx`).
- `generic`: `question`, `options` (a list, letter -> text, or keys of their own: `a0` ..., `option_A` ...), `video` or
  `image`, and where there are some `answer` (a letter, an index from 0, or the text of an option), `category`, `view`,
  `language`, `id`, and `start` and `end` of the part of the video that is meant, in seconds.

Fields have the names of [`SYNONYMS`]. Others are refused, but for those that only describe an item.
"""

import json
import os
import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import DataError
from .video_protocols import VIDEO_SUFFIXES
from .vocabulary import END, START, seconds_of, unknown_key


FORMATS = ("perception_mcq", "egoschema", "generic")
# views of perception_mcq that are asked for unless told otherwise
VIEWS = ("ego", "exo")
# folders that hold the videos of a view, inside of the given one; "" is itself
_VIDEO_FOLDERS = ("", "videos", "egocentric_videos", "keystep_segments")
VIEW_FOLDERS = {"ego": _VIDEO_FOLDERS, "exo": _VIDEO_FOLDERS, "depth": ("depth_videos",)}
# the same by other names, the first that an item has counts
SYNONYMS = {
    "id": ("id", "question_id", "question_idx", "q_uid", "qid", "index"),
    "question": ("question",),
    "options": ("options", "choices", "candidates", "answer_choices", "option"),
    "answer": (
        *("ground_truth_letter", "answer_letter", "answer", "ground_truth"),
        *("correct_choice", "correct_answer", "answer_id", "answer_idx", "truth"),
    ),
    "video": ("video", "video_path", "video_name", "videoID", "video_id"),
    "image": ("image", "image_path"),
    "category": (
        *("category", "category_name", "task_type", "type"),
        *("question_type", "question_category", "topic_category"),
    ),
    "view": ("view",),
    "language": ("language", "lang"),
    "start": START,
    "end": END,
}
# of one format alone
FORMAT_KEYS = {
    "perception_mcq": ("ego_filename", "exo_filename", "video_filename"),
    "egoschema": ("video_idx",),
    "generic": (),
}
# options in keys of their own: "option 0", "option_A", "a0", "A"
_NUMBERED = re.compile(r"(?:option[ _]?|a)(?P<number>\d+)|(?:option[ _]?)?(?P<letter>[A-Z])")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """One question about one video or image.

    Args:
        id: identifier that no other question of the file has.
        text: text of the question.
        options: text of each option by its letter, from A on.
        media: path of the video or image.
        kind: `"video"` or `"image"`.
        answer: letter of the right option; `None` where the file does not tell.
        category: group that accuracy is stated for.
        view: camera that the video was taken by, e.g. `"ego"`.
        language: language of the question, e.g. `"zh"`.
        start: seconds into the video at which the part begins that is asked about; `None`: at its beginning.
        end: seconds into the video at which that part ends; `None`: at its end.
    """

    id: str
    text: str
    options: dict[str, str]
    media: str
    kind: str = "video"
    answer: str | None = None
    category: str | None = None
    view: str | None = None
    language: str | None = None
    start: float | None = None
    end: float | None = None

    @property
    def visual(self) -> Any:
        """The video or image, or the part of a video, as a processor takes it."""
        if self.start is None and self.end is None:
            return self.media
        return {"path": self.media, "start": self.start, "end": self.end}


@dataclass
class QuestionFile:
    """The questions of a file.

    Args:
        name: name of the file, without its folder.
        format: format of the file, one of `FORMATS`.
        questions: questions in the order of the file, the views of an item one after the other.
        skipped: items that were left out, `{"item": where, "error": why}`.
    """

    name: str
    format: str
    questions: list[Question]
    skipped: list[dict[str, str]] = field(default_factory=list)


def load_questions(
    path: str | Path,
    videos: str | Path | None = None,
    *,
    format: str | None = None,
    views: Sequence[str] | None = None,
    answers: str | Path | None = None,
    on_error: str = "raise",
) -> QuestionFile:
    """Read a file of questions and look for the videos and images.

    Args:
        path: file of questions, `.json` or `.jsonl`.
        videos: folder that the paths of the file start from; by default the folder of the file.
        format: one of `FORMATS`; by default what the first item looks like.
        views: views to ask about: in `perception_mcq` some of `ego`, `exo` and `depth` (default: ego and exo), in
            other formats some of the file's own (default: all).
        answers: a JSON file that tells the right answers, id -> index from 0 or letter, as EgoSchema publishes one for
            a subset. Questions that it does not name are left out.
        on_error: `"raise"`, or `"skip"` to leave out an item that is wrong or whose video is missing.

    Raises:
        DataError: naming file, item and field, if something is wrong; and if no question is left.
    """
    path = Path(path)
    check_on_error(on_error)
    items = _read_items(path)
    format = _format(items, path) if format is None else format
    if format not in FORMATS:
        raise DataError(f"unknown format of questions {format!r}: choose one of {', '.join(FORMATS)}.")
    _check_views(views, format)
    read = _READERS[format]
    places = _Places(Path(videos) if videos is not None else path.parent)
    truths = None if answers is None else _read_answers(Path(answers))
    result = QuestionFile(path.name, format, [])
    seen: dict[str, dict[Any, str]] = {"id": {}, "content": {}}
    for where, item in items:
        try:
            checked = _Item(where, item)
            checked.check_keys(format)
            questions = read(checked, places, views)
            questions = questions if truths is None else _with_answers(questions, truths, where)
            for question in questions:
                _check_new(question, where, seen)
        except DataError as error:
            if on_error == "raise":
                raise
            result.skipped.append({"item": where, "error": str(error)})
            continue
        result.questions += questions
    if not result.questions:
        reason = f"; the first: {result.skipped[0]['error']}" if result.skipped else ""
        raise DataError(f"{path.name} leaves no question to ask of {len(items)}{reason or '.'}")
    return result


def check_on_error(on_error: str) -> None:
    """
    Raises:
        DataError: unless it is `"raise"` or `"skip"`.
    """
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error is {on_error!r}: choose raise or skip.")


class _Item:
    """An item of a file, whose fields are checked as they are asked for."""

    def __init__(self, where: str, content: Any) -> None:
        self.where = where
        if not isinstance(content, dict):
            raise self.error(f"is no object of fields, but {content!r:.60}")
        self.content = content

    def error(self, reason: str) -> DataError:
        return DataError(f"{self.where} {reason}.")

    def name(self, field_name: str) -> str | None:
        """What a field is called here."""
        return next(
            (name for name in SYNONYMS.get(field_name, (field_name,)) if self.content.get(name) is not None), None
        )

    def get(self, field_name: str) -> str | None:
        """Text of a field, or a whole number as text."""
        name = self.name(field_name)
        if name is None:
            return None
        value = self.content[name]
        if isinstance(value, list) and len(value) == 1 and field_name in ("video", "image"):
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(f"has {value!r:.60} in field {name!r}, where text must be")
        return value.strip()

    def need(self, field_name: str) -> str:
        """The text of a field that must be there."""
        value = self.get(field_name)
        if value is None:
            raise self.error(f"has no field {' or '.join(map(repr, SYNONYMS.get(field_name, (field_name,))))}")
        return value

    def options(self) -> dict[str, str]:
        """Letter -> text, of a list, or of letters in order."""
        name = self.name("options")
        if name is None:
            numbered = _numbered(self.content)
            if not numbered:
                raise self.error(f"has no field {' or '.join(map(repr, SYNONYMS['options']))}")
            return self._options(numbered[0], [self.content[key] for key in numbered])
        value = self.content[name]
        if not isinstance(value, dict):
            return self._options(name, value)
        letters = [str(letter).strip(" ().").upper() for letter in value]
        if sorted(letters) != list(string.ascii_uppercase[: len(letters)]):
            raise self.error(
                f"has the letters {', '.join(map(str, value))} in field {name!r}, which must be A, B, ..."
            )
        return self._options(name, [text for _, text in sorted(zip(letters, value.values(), strict=True))])

    def _options(self, name: str, texts: Any) -> dict[str, str]:
        texts = list(texts) if isinstance(texts, list) else texts
        # some files fill up with nothing what has fewer options
        while isinstance(texts, list) and texts and (texts[-1] in (None, "") or texts[-1] != texts[-1]):
            texts.pop()
        if not isinstance(texts, list) or not 2 <= len(texts) <= len(string.ascii_uppercase):
            raise self.error(f"has {texts!r:.60} in field {name!r}, where 2 to 26 options must be")
        for text in texts:
            if isinstance(text, bool) or not isinstance(text, str | int | float) or not str(text).strip():
                raise self.error(f"has the option {text!r:.60} in field {name!r}, where text must be")
        texts = [str(text).strip() for text in texts]
        # some files write the letter before each text, which then says which option it is
        lettered = [re.fullmatch(r"\(?([A-Za-z])(?:[.):]+\s*|\s+-\s+)(\S.*)", text, re.DOTALL) for text in texts]
        own = {match[1].upper(): match[2] for match in lettered if match}
        if sorted(own) == list(string.ascii_uppercase[: len(texts)]):
            return dict(sorted(own.items()))
        return dict(zip(string.ascii_uppercase, texts, strict=False))

    def seconds(self, field_name: str) -> float | None:
        """A time in the video, as a number or as `HH:MM:SS`."""
        name = self.name(field_name)
        if name is None:
            return None
        seconds = seconds_of(self.content[name])
        if seconds is None:
            raise self.error(f"has {self.content[name]!r:.60} in field {name!r}, where seconds must be")
        return seconds

    def part(self) -> dict[str, Any]:
        """`start` and `end` of the part of the video that is asked about."""
        start, end = self.seconds("start"), self.seconds("end")
        if end is not None and end <= (start or 0.0):
            raise self.error(f"ends at {end:g} s, which is not after its start at {start or 0:g} s")
        if self.name("image") is not None and self.name("video") is None and (start, end) != (None, None):
            raise self.error("has a part of a video, but names an image")
        return {"start": start, "end": end}

    def check_keys(self, format: str) -> None:
        """See that every field is used.

        Raises:
            DataError: naming the first one that is not.
        """
        known = [name for names in SYNONYMS.values() for name in names] + [*FORMAT_KEYS[format]]
        numbered = set(_numbered(self.content)) if self.name("options") is None else set()
        wrong = unknown_key({key: value for key, value in self.content.items() if key not in numbered}, known)
        if wrong is not None:
            raise self.error(wrong)

    def answer(self, options: dict[str, str]) -> str | None:
        """Letter of the right option."""
        names = [name for name in SYNONYMS["answer"] if self.content.get(name) is not None]
        found = {name: letter_of(self.content[name], options, f"{self.where} has in field {name!r}") for name in names}
        for name, letter in found.items():
            if letter != found[names[0]]:
                raise self.error(
                    f"has the answer {found[names[0]]} in field {names[0]!r}, but {letter} in field {name!r}"
                )
        return found[names[0]] if names else None


def letter_of(value: Any, options: dict[str, str], where: str) -> str:
    """The letter of an option that is told by its letter, its index from 0 or its text.

    Raises:
        DataError: beginning with `where`, if it is none of them.
    """
    letters, texts = list(options), list(options.values())
    text = value.strip() if isinstance(value, str) else str(value) if type(value) is int else ""
    readings = {}
    match = re.fullmatch(r"\(?([A-Za-z])[).]?", text)
    if match and match[1].upper() in options:
        readings["letter"] = match[1].upper()
    if text and texts.count(text) == 1:
        readings["text"] = letters[texts.index(text)]
    # "B. peel" and "(B) peel" tell letter and text
    both = re.fullmatch(r"\(?([A-Za-z])[).:]+\s*(.+)", text)
    if both and options.get(both[1].upper()) == both[2].strip():
        readings["letter and text"] = both[1].upper()
    # a number that is written as text is the text of an option before it is the place of one
    if text.isdecimal() and int(text) < len(letters) and not (isinstance(value, str) and "text" in readings):
        readings["index"] = letters[int(text)]
    if len(set(readings.values())) > 1:
        what = " and ".join(f"the {how} of {letter}" for how, letter in readings.items())
        raise DataError(f"{where} the answer {value!r:.60}, which is {what}: write it as the letter and the text.")
    if readings:
        return next(iter(readings.values()))
    raise DataError(
        f"{where} the answer {value!r:.60}, which is none of the options {letters[0]} to {letters[-1]}: write the "
        f"letter, the index from 0 or the text of one of them."
    )


class _Places:
    """Finds videos and images in a folder."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"folder of videos {str(folder)!r} does not exist.")
        self.folder = folder

    def find(self, item: _Item, name: str, folders: Iterable[str] = ("",), suffixes: Sequence[str] = ()) -> str:
        """Path of a file that an item names, with or without its suffix."""
        if "://" in name:
            raise item.error(f"names the address {name!r}: download it and name the file")
        for folder in folders:
            for suffix in ("", *suffixes):
                path = str(self.folder / folder / f"{name}{suffix}")
                if os.path.isfile(path):  # noqa: PTH113 - names that no file system takes are no files either
                    return path
        searched = ", ".join(repr(str(self.folder / folder)) for folder in folders)
        raise item.error(f"names {name!r}, which is not in {searched}")


def _read_generic(item: _Item, places: _Places, views: Sequence[str] | None) -> list[Question]:
    options = item.options()
    kinds = [kind for kind in ("video", "image") if item.name(kind) is not None]
    if len(kinds) != 1:
        raise item.error("must have one of the fields 'video' and 'image'")
    view = item.get("view")
    if views is not None and view not in views:
        return []
    media = places.find(item, item.need(kinds[0]), suffixes=VIDEO_SUFFIXES if kinds[0] == "video" else ())
    return [
        Question(
            item.get("id") or item.where.rpartition(" ")[2],
            item.need("question"),
            options,
            media,
            kinds[0],
            item.answer(options),
            item.get("category"),
            view,
            item.get("language"),
            **item.part(),
        )
    ]


def _read_perception(item: _Item, places: _Places, views: Sequence[str] | None) -> list[Question]:
    options = item.options()
    number = item.where.rpartition(" ")[2]
    questions = []
    for view in VIEWS if views is None else views:
        media = places.find(item, _perception_video(item, view), VIEW_FOLDERS[view], VIDEO_SUFFIXES)
        identity = f"{item.get('id') or number}_{view}"
        text, category = item.need("question"), item.need("category")
        questions.append(
            Question(identity, text, options, media, "video", item.answer(options), category, view, **item.part())
        )
    return questions


def _perception_video(item: _Item, view: str) -> str:
    """Name of the video of a view; depth was taken by the exo camera."""
    field_name = "ego_filename" if view == "ego" else "exo_filename"
    if item.name("video_filename") is None or item.name(field_name) is not None:
        return item.need(field_name)
    # of a take, all cameras but the ego one have names of four letters at the end
    name = item.need("video_filename")
    return f"{name[:-4]}ego" if view == "ego" else name


def _read_egoschema(item: _Item, places: _Places, views: Sequence[str] | None) -> list[Question]:
    options = item.options()
    names = [name for name in map(item.get, ("q_uid", "question_idx", "video_idx")) if name is not None]
    if not names:
        raise item.error("has no field 'q_uid' or 'question_idx'")
    # the server knows a question by its long identifier, which is the name of its video as well
    identity = next((name for name in names if _UUID.fullmatch(name)), names[0])
    video = item.get("video") or item.get("video_idx") or identity
    media = places.find(item, video, ("", "videos"), (".mp4", ".MP4", *VIDEO_SUFFIXES))
    return [Question(identity, item.need("question"), options, media, "video", item.answer(options), **item.part())]


_READERS: dict[str, Callable[[_Item, _Places, Sequence[str] | None], list[Question]]] = {
    "perception_mcq": _read_perception,
    "egoschema": _read_egoschema,
    "generic": _read_generic,
}


def _check_views(views: Sequence[str] | None, format: str) -> None:
    if format == "egoschema" and views is not None:
        raise DataError("EgoSchema has no views: leave them out.")
    unknown = [view for view in views or () if view not in VIEW_FOLDERS]
    if format == "perception_mcq" and unknown:
        raise DataError(f"unknown view {unknown[0]!r}: choose some of {', '.join(VIEW_FOLDERS)}.")


def _format(items: list[tuple[str, Any]], path: Path) -> str:
    first = items[0][1]
    if not isinstance(first, dict):
        raise DataError(f"{path.name} must be a list of objects with fields such as 'question', got {first!r:.60}.")
    if "answer_choices" in first and first.keys() & {"ego_filename", "exo_filename", "video_filename"}:
        return "perception_mcq"
    if "q_uid" in first or {"question_idx", "video_idx"} <= first.keys():
        return "egoschema"
    return "generic"


def _numbered(content: dict[str, Any]) -> list[str]:
    """Fields `option 0`, `option_A`, `a0`, `A` and what follows them, in order; empty if one is missing between."""
    found = [(match, key) for key in content if (match := _NUMBERED.fullmatch(str(key)))]
    by_letter = {ord(match["letter"]) - ord("A"): key for match, key in found if match["letter"]}
    by_number = {int(match["number"]): key for match, key in found if match["number"]}
    for keys in (by_letter, by_number):
        if keys and sorted(keys) in (list(range(len(keys))), list(range(1, len(keys) + 1))):
            return [keys[number] for number in sorted(keys)]
    return []


def _read_items(path: Path) -> list[tuple[str, Any]]:
    """Items of a file, each with where it stands; blank lines do not count."""
    text = _read_text(path)
    if path.suffix == ".jsonl":
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        items = [
            (f"{path.name}, line {number}", _parse(line, f"{path.name}, line {number}")) for number, line in lines
        ]
    else:
        content = _parse(text, path.name)
        if not isinstance(content, list):
            raise DataError(f"{path.name} must be a list of questions, got {type(content).__name__}.")
        items = [(f"{path.name}, item {number}", item) for number, item in enumerate(content, 1)]
    if not items:
        raise DataError(f"{path.name} holds no question.")
    return items


def _read_answers(path: Path) -> dict[str, Any]:
    content = _parse(_read_text(path), path.name)
    if not isinstance(content, dict):
        raise DataError(f"{path.name} must tell the answer of each id, {{id: index}}, got {type(content).__name__}.")
    return content


def _with_answers(questions: list[Question], answers: dict[str, Any], where: str) -> list[Question]:
    """The questions whose right answer is told, with it."""
    return [
        Question(
            **question.__dict__ | {"answer": letter_of(answers[question.id], question.options, f"{where} is given")}
        )
        for question in questions
        if question.id in answers
    ]


def _check_new(question: Question, where: str, seen: dict[str, dict[Any, str]]) -> None:
    part = (question.start, question.end)
    content = (question.text, tuple(question.options.values()), question.media, part, question.view)
    for kind, key in (("id", question.id), ("content", content)):
        if key in seen[kind]:
            what = f"has the id {question.id!r} of" if kind == "id" else "repeats the question, options and video of"
            raise DataError(f"{where} {what} {seen[kind][key].rpartition(', ')[2]}.")
    seen["id"][question.id] = seen["content"][content] = where


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not encoded in UTF-8.") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}.") from error
