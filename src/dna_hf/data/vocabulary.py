"""Which keys a file of conversations or questions may have: what is not known is named, never passed over."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


# of a video or a question: what describes it, and changes nothing
NOTES = frozenset(
    {
        *("url", "source", "dataset", "data_source", "split", "domain", "sub_category", "comment", "metadata"),
        *("duration", "duration_group", "frame_count", "width", "height", "position", "view_count", "difficulty"),
        *("level", "google_drive_id", "question_wo_referring_query", "subtitle_path"),
        "starting_timestamp_for_subtitles",
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
    known = list(dict.fromkeys(known))
    found = next((key for key in content if key not in known and key not in set(notes)), None)
    if found is None:
        return None
    nearest = difflib.get_close_matches(str(found).lower(), known, n=1, cutoff=0.6)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"
    return f"has the key {found!r}, which nothing is made of: {hint}"
