"""Which keys a file of conversations or questions may have: what is not known is named, never passed over."""

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import Any


# of a video or a question: what describes it, and changes nothing
NOTES = frozenset(
    {
        *("url", "source", "dataset", "data_source", "split", "domain", "sub_category", "comment", "metadata"),
        *("duration", "duration_group", "frame_count", "width", "height", "position", "view_count", "difficulty"),
        *("level", "google_drive_id", "question_wo_referring_query", "subtitle_path"),
        *("starting_timestamp_for_subtitles", "accurate_start", "subtitle", "area"),
    }
)
# seconds at which a part of a video begins and ends
START = ("start", "start_time", "start_sec", "begin")
END = ("end", "end_time", "end_sec", "stop")


def unknown_key(content: Mapping[str, Any], known: Iterable[str], notes: Iterable[str] = NOTES) -> str | None:
    """The end of a sentence about the first key that is not known; `None` if there is none.

    Args:
        content: what was read of a file, key -> value.
        known: keys that have an effect.
        notes: keys that may be there, and have none.
    """
    known, notes = list(dict.fromkeys(known)), set(notes)
    # tables that were made lists of objects fill up with nothing
    given = {key: value for key, value in content.items() if value is not None and key not in known}
    found = next((key for key, value in given.items() if key not in notes or _means_more(value)), None)
    if found is None:
        return None
    nearest = difflib.get_close_matches(str(found).lower(), known, n=1, cutoff=0.6)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"
    return f"has the key {found!r}, which nothing is made of: {hint}"


def _means_more(value: Any) -> bool:
    """Whether what stands in a key that only describes may be the times of a part."""
    return isinstance(value, list) or (isinstance(value, dict) and not value.keys().isdisjoint((*START, *END)))


def seconds_of(value: Any) -> float | None:
    """Seconds that are written as a number, as text, or as `HH:MM:SS`; `None` for anything else."""
    if isinstance(value, bool):
        return None
    try:
        parts = [float(part) for part in value.split(":")] if isinstance(value, str) else [float(value)]
    except (TypeError, ValueError):
        return None
    if len(parts) > 3 or not all(math.isfinite(part) and part >= 0 for part in parts):
        return None
    return sum(part * 60**power for power, part in enumerate(reversed(parts)))
