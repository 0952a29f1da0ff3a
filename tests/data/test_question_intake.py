"""What people give as questions, each with what is made of it: a table."""

import json

import pytest

from dna_hf.data.errors import DataError
from dna_hf.data.multiple_choice import load_questions


BASE = {"question": "What is done?", "options": ["peel", "wash", "cut"], "video": "clip.mp4"}


def without(*names, **changes):
    return {name: value for name, value in BASE.items() if name not in names} | changes


XY = {"options": {"A": "x", "B": "y"}}
TWO = {"options": {"A": "peel", "B": "wash"}}
PART = {"start": 0.0, "end": 0.5}

# what is given -> what the question has
READ = {
    "nothing more": (BASE, {"answer": None, "start": None, "end": None, "language": None}),
    "part": (BASE | PART, PART),
    "start alone": (BASE | {"start": 2}, {"start": 2.0, "end": None}),
    "end alone": (BASE | {"end": 2}, {"start": None, "end": 2.0}),
    "start_time, end_time": (BASE | {"start_time": 1.5, "end_time": 3}, {"start": 1.5, "end": 3.0}),
    "start_sec, end_sec": (BASE | {"start_sec": 1, "end_sec": 3}, {"start": 1.0, "end": 3.0}),
    "begin, stop": (BASE | {"begin": 1, "stop": 3}, {"start": 1.0, "end": 3.0}),
    "clock": (BASE | {"start": "00:01:05", "end": "1:10.5"}, {"start": 65.0, "end": 70.5}),
    "seconds as text": (BASE | {"start": "1.5"}, {"start": 1.5}),
    "language": (BASE | {"language": "zh"}, {"language": "zh"}),
    "lang": (BASE | {"lang": "de"}, {"language": "de"}),
    "video_path": (without("video", video_path="clip.mp4"), {"kind": "video"}),
    "video_name": (without("video", video_name="clip"), {"kind": "video"}),
    "videoID": (without("video", videoID="clip", video_id="001"), {"kind": "video"}),
    "video_id": (without("video", video_id="clip"), {"kind": "video"}),
    "image_path": (without("video", image_path="picture.png"), {"kind": "image"}),
    "choices": (without("options", choices=["peel", "wash"]), TWO),
    "candidates": (without("options", candidates=["peel", "wash"]), TWO),
    "a0, a1": (without("options", a0="peel", a1="wash"), TWO),
    "option 0, option 1": (
        without("options", **{"option 1": "wash", "option 0": "peel"}),
        TWO,
    ),
    "option_A, option_B": (
        without("options", option_A="peel", option_B="wash"),
        TWO,
    ),
    "option1, option2": (without("options", option1="peel", option2="wash"), TWO),
    "A, B": (without("options", A="peel", B="wash"), TWO),
    "letter": (BASE | {"answer": "B"}, {"answer": "B"}),
    "small letter": (BASE | {"answer": "b"}, {"answer": "B"}),
    "letter in brackets": (BASE | {"answer": "(B)"}, {"answer": "B"}),
    "index": (BASE | {"answer": 1}, {"answer": "B"}),
    "text": (BASE | {"answer": "wash"}, {"answer": "B"}),
    "letter and text": (BASE | {"answer": "B. wash"}, {"answer": "B"}),
    "letter in brackets and text": (BASE | {"answer": "(B) wash"}, {"answer": "B"}),
    "letter, colon and text": (BASE | {"answer": "B: wash"}, {"answer": "B"}),
    "correct_choice": (BASE | {"correct_choice": 2}, {"answer": "C"}),
    "answer_id": (BASE | {"answer_id": 2}, {"answer": "C"}),
    "answer_idx": (BASE | {"answer_idx": 2}, {"answer": "C"}),
    "correct_answer": (BASE | {"correct_answer": "cut"}, {"answer": "C"}),
    "answers that agree": (BASE | {"answer": "B", "correct_choice": 1}, {"answer": "B"}),
    "letters in another order": (
        BASE | {"options": ["B. y", "A. x"], "answer": "A"},
        XY,
    ),
    "small letters": (BASE | {"options": ["a. x", "b. y"]}, XY),
    "letters with dashes": (BASE | {"options": ["A - x", "B - y"]}, XY),
    "filled up": (without("options", A="x", B="y", C=None, D=float("nan")), XY),
    "filled up with empty texts": (BASE | {"options": ["x", "y", "", ""]}, XY),
    "truth": (BASE | {"truth": 1}, {"answer": "B"}),
    "index of the question": (BASE | {"index": 7}, {"id": "7"}),
    "qid": (BASE | {"qid": 17}, {"id": "17"}),
    "question_type": (BASE | {"question_type": "order"}, {"category": "order"}),
    "what only describes": (
        BASE | {"url": "https://x", "domain": "sport", "duration": "short", "width": 4, "split": "test"},
        {"category": None},
    ),
}

# what is given -> a part of the sentence
REFUSED = {
    "typo of a key": (
        without("question", qestion="?"),
        "has the key 'qestion', which nothing is made of: did",
    ),
    "typo of video": (without("video", vidoe="clip.mp4"), "'vidoe', which nothing is made of: did you mean 'video'?"),
    "plural of video": (
        without("video", videos=["clip.mp4"]),
        "'videos', which nothing is made of: did",
    ),
    "unknown key": (BASE | {"xyzzy": 1}, "has the key 'xyzzy', which nothing is made of: known are id, "),
    "time that looks like one": (BASE | {"starttime": 1}, "did you mean 'start_time'?"),
    "fps": (BASE | {"fps": 2}, "has the key 'fps', which nothing is made of"),
    "system": (BASE | {"system": "Be brief."}, "has the key 'system'"),
    "options twice": (BASE | {"a0": "peel", "a1": "wash"}, "has the key 'a0'"),
    "hole in the options": (without("options", a0="peel", a2="wash"), "has the key 'a0'"),
    "key of another format": (BASE | {"ego_filename": "x"}, "has the key 'ego_filename'"),
    "end before start": (BASE | {"start": 2, "end": 1}, "ends at 1 s, which is not after its start at 2 s"),
    "empty part": (BASE | {"start": 0, "end": 0}, "ends at 0 s, which is not after its start at 0 s"),
    "negative start": (BASE | {"start": -1}, "has -1 in field 'start', where seconds must be"),
    "no time": (BASE | {"start": "soon"}, "has 'soon' in field 'start', where seconds must be"),
    "truth for a time": (BASE | {"end": True}, "has True in field 'end', where seconds must be"),
    "infinite": (BASE | {"end": "inf"}, "has 'inf' in field 'end', where seconds must be"),
    "part of an image": (without("video", image="picture.png", start=1), "has a part of a video, but names an image"),
    "answers that differ": (
        BASE | {"answer": "A", "correct_choice": 1},
        "has the answer A in field 'answer', but B in field 'correct_choice'",
    ),
    "index or text": (
        BASE | {"options": ["2", "0", "1"], "answer": 1},
        "the answer 1, which is the text of C and the index of B",
    ),
    "letter or text": (
        BASE | {"options": ["B", "A"], "answer": "A"},
        "the answer 'A', which is the letter of A and the text of B",
    ),
    "times in a key that describes": (BASE | {"duration": [2, 4]}, "has the key 'duration'"),
    "letter and another text": (BASE | {"answer": "B. peel"}, "the answer 'B. peel', which is none of the options"),
    "two kinds": (BASE | {"image": "picture.png"}, "must have one of the fields 'video' and 'image'"),
}


def given(folder, *items):
    (folder / "clip.mp4").write_bytes(b"")
    (folder / "picture.png").write_bytes(b"")
    (folder / "questions.json").write_text(json.dumps(items))
    return folder / "questions.json"


@pytest.mark.parametrize(("item", "expected"), READ.values(), ids=READ.keys())
def test_what_is_read(tmp_path, item, expected):
    (question,) = load_questions(given(tmp_path, item)).questions
    assert {name: getattr(question, name) for name in expected} == expected
    assert question.media == str(tmp_path / ("picture.png" if question.kind == "image" else "clip.mp4"))


@pytest.mark.parametrize(("item", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_by_name(tmp_path, item, sentence):
    with pytest.raises(DataError) as caught:
        load_questions(given(tmp_path, item))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("questions.json, item 1 ")


def test_two_parts_of_a_video_are_two_questions(tmp_path):
    first, second = load_questions(given(tmp_path, BASE | PART, BASE | {"start": 0.5})).questions
    assert first.visual == {"path": str(tmp_path / "clip.mp4"), "start": 0.0, "end": 0.5}
    assert second.visual == {"path": str(tmp_path / "clip.mp4"), "start": 0.5, "end": None}
    with pytest.raises(DataError, match="item 2 repeats the question"):
        load_questions(given(tmp_path, BASE | PART, BASE | PART))
