"""Files of conversations: what they become, and how what is wrong with them is said."""

import json

import pytest

from dna_hf.data.conversation_arguments import ConversationDataArguments
from dna_hf.data.conversations import (
    Conversations,
    list_bad_samples,
    read_conversations,
)
from dna_hf.data.errors import DataError
from tests.kit.video_llm_training import reasons_in


ASK = {"from": "human", "value": "What is this?"}
ANSWER = {"from": "gpt", "value": "A carrot."}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "media").mkdir()
    for name in ("a.mp4", "b.mp4", "a.png", "b.png"):
        (tmp_path / "media" / name).touch()
    return tmp_path


def write(folder, *samples):
    path = folder / "train.json"
    path.write_text(json.dumps(list(samples)))
    return path


def read_one(folder, **sample):
    sample = {"id": "s1", "conversations": [ASK, ANSWER]} | sample
    return read_conversations(write(folder, sample), folder / "media").samples[0]


def parts(folder, **sample):
    """A conversation in short: (role, [text or (kind, file)]) of every message."""
    return [
        (
            message["role"],
            [
                part["text"]
                if part["type"] == "text"
                else (part["type"], part[part["type"]].removeprefix(f"{folder}/media/"))
                for part in message["content"]
            ],
        )
        for message in read_one(folder, **sample).messages
    ]


def human(text):
    return {"from": "human", "value": text}


@pytest.mark.parametrize(
    ("sample", "first"),
    [
        ({"video": "a.mp4", "conversations": [human("<video>\nWhat?"), ANSWER]}, [("video", "a.mp4"), "What?"]),
        ({"video": ["a.mp4"], "conversations": [human("What? <video>"), ANSWER]}, ["What?", ("video", "a.mp4")]),
        ({"image": "a.png", "conversations": [human("<image>\nWhat?"), ANSWER]}, [("image", "a.png"), "What?"]),
        ({"image": "a.png", "conversations": [human("<image>"), ANSWER]}, [("image", "a.png")]),
        # no tag: before the first question
        ({"video": "a.mp4", "conversations": [human("What?"), ANSWER]}, [("video", "a.mp4"), "What?"]),
        (
            {"video": ["a.mp4", "b.mp4"], "conversations": [human("What?"), ANSWER]},
            [("video", "a.mp4"), ("video", "b.mp4"), "What?"],
        ),
        # the tag of an image stands for the video
        ({"video": "a.mp4", "conversations": [human("<image>\nWhat?"), ANSWER]}, [("video", "a.mp4"), "What?"]),
        (
            {"image": ["b.png", "a.png"], "conversations": [human("<image> or\n<image> ?"), ANSWER]},
            [("image", "b.png"), "or", ("image", "a.png"), "?"],
        ),
        (
            {"image": "a.png", "video": "a.mp4", "conversations": [human("<video> like <image>"), ANSWER]},
            [("video", "a.mp4"), "like", ("image", "a.png")],
        ),
        ({}, ["What is this?"]),
    ],
)
def test_media_stand_where_their_tags_are(folder, sample, first):
    assert parts(folder, **sample) == [("user", first), ("assistant", ["A carrot."])]


def test_a_video_may_be_a_folder_of_frames(folder):
    (folder / "media" / "frames").mkdir()
    assert parts(folder, video="frames")[0] == ("user", [("video", "frames"), "What is this?"])


def test_several_turns_and_a_tag_in_a_later_one(folder):
    turns = [human("<image> one?"), ANSWER, human("and <image>?"), {"from": "gpt", "value": " Two. "}]
    assert parts(folder, image=["a.png", "b.png"], conversations=turns) == [
        ("user", [("image", "a.png"), "one?"]),
        ("assistant", ["A carrot."]),
        ("user", ["and", ("image", "b.png"), "?"]),
        ("assistant", ["Two."]),
    ]


def test_what_comes_before_the_first_question_goes_but_for_the_system_turn(folder):
    turns = [{"from": "system", "value": "Be short."}, ANSWER, ASK, ANSWER]
    assert parts(folder, conversations=turns) == [
        ("system", ["Be short."]),
        ("user", ["What is this?"]),
        ("assistant", ["A carrot."]),
    ]


def test_lines_and_lists_are_the_same(folder):
    samples = [{"id": f"s{i}", "video": "a.mp4", "conversations": [ASK, ANSWER]} for i in range(3)]
    lines = folder / "train.jsonl"
    lines.write_text("\n".join(json.dumps(sample) for sample in samples) + "\n\n")
    from_lines = read_conversations(lines, folder / "media")
    from_list = read_conversations(write(folder, *samples), folder / "media")
    assert [s.messages for s in from_lines.samples] == [s.messages for s in from_list.samples]
    assert [s.row for s in from_lines.samples] == [0, 1, 2]
    assert from_lines.samples[2].name == "'train.jsonl', line 3, sample 's2'"
    assert from_list.samples[2].name == "'train.json', entry 3, sample 's2'"
    assert [s.visuals for s in from_list.samples] == [1, 1, 1]


def test_paths_start_from_the_file_unless_another_folder_is_given(folder):
    (folder / "near.mp4").touch()
    path = write(folder, {"video": "near.mp4", "conversations": [ASK, ANSWER]})
    part = read_conversations(path).samples[0].messages[0]["content"][0]
    assert part == {"type": "video", "video": str(folder / "near.mp4")}
    with pytest.raises(DataError, match="there is no file"):
        read_conversations(path, folder / "media")


BAD = {
    "missing file": ({"video": "c.mp4"}, r"field 'video': there is no file '.*/media/c\.mp4'"),
    "a folder": ({"image": "."}, "field 'image': there is no file"),
    "two tags, one file": (
        {"video": "a.mp4", "conversations": [human("<video><video>"), ANSWER]},
        "field 'conversations' has 2 <video> for 1 files in field 'video'",
    ),
    "tag without a file": (
        {"conversations": [human("<image> What?"), ANSWER]},
        "field 'conversations' has 1 <image> for 0 files in field 'image'",
    ),
    "no answer": ({"conversations": [ASK]}, "field 'conversations' has no turn from 'gpt' to learn"),
    "answer first": ({"conversations": [ANSWER, ASK]}, "field 'conversations' has no turn from 'gpt' to learn"),
    "no question": ({"conversations": [ANSWER]}, "field 'conversations' has no turn from 'human'"),
    "empty answer": (
        {"conversations": [ASK, {"from": "gpt", "value": " \n"}]},
        "field 'conversations', turn 2, from 'gpt', is empty",
    ),
    "tag in an answer": (
        {"conversations": [ASK, {"from": "gpt", "value": "See <image>."}]},
        "field 'conversations', turn 2, from 'gpt', has a tag <image>",
    ),
    "unknown role": (
        {"conversations": [ASK, {"from": "bot", "value": "Hi."}]},
        "field 'conversations', turn 2: 'from' must be human, gpt or system, got 'bot'",
    ),
    "value is no text": (
        {"conversations": [ASK, {"from": "gpt", "value": 3}]},
        "field 'conversations', turn 2 must have 'from' and 'value', both text",
    ),
    "turn is no object": (
        {"conversations": ["Hi", ANSWER]},
        "field 'conversations', turn 1 must have 'from' and 'value', both text",
    ),
    "no conversations": ({"conversations": None}, "field 'conversations' must be a list of turns, got nothing"),
    "conversations are text": ({"conversations": "Hi"}, "field 'conversations' must be a list of turns, got text"),
    "video is a number": ({"video": 3}, "field 'video' must be a path or a list of paths, got a number"),
    "image is empty": ({"image": [""]}, "field 'image' must be a path or a list of paths, got a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_a_sentence(folder, name):
    fields, reason = BAD[name]
    good = {"id": "good", "conversations": [ASK, ANSWER]}
    path = write(folder, good, good | {"id": "bad"} | fields)
    with pytest.raises(DataError, match=rf"^'train\.json', entry 2, sample 'bad': {reason}") as info:
        read_conversations(path, folder / "media")
    assert "\n" not in str(info.value) and str(info.value).endswith(".")
    found = read_conversations(path, folder / "media", on_error="skip")
    assert [sample.row for sample in found.samples] == [0]
    assert found.bad == [str(info.value)]


def test_a_line_that_is_no_json_is_one_bad_sample(folder):
    path = folder / "train.jsonl"
    good = json.dumps({"conversations": [ASK, ANSWER]})
    path.write_text(f"{good}\n{{oops\n[1]\n{good}\n")
    with pytest.raises(DataError, match=r"^'train\.jsonl', line 2: it is no valid JSON: "):
        read_conversations(path)
    found = read_conversations(path, on_error="skip")
    assert [sample.row for sample in found.samples] == [0, 3]
    assert found.bad[1] == "'train.jsonl', line 3: a sample must be an object, got a list."


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("train.csv", "", "must end in .json or .jsonl"),
        ("gone.json", None, "cannot read the conversations in .*gone.json': No such file"),
        ("train.json", "{oops", "is no valid JSON"),
        ("train.json", '{"conversations": []}', "must hold a list of samples, got an object"),
        ("train.json", "[]", "has no sample that can be used"),
        ("train.jsonl", "\n", "has no sample that can be used"),
        ("train.json", b"\xff\xfe\x00", "it is no text in UTF-8"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=reason):
        read_conversations(tmp_path / name, on_error="skip")


def test_a_data_folder_that_is_none(folder):
    path = write(folder, {"conversations": [ASK, ANSWER]})
    with pytest.raises(DataError, match="data_folder '.*/gone' is no folder"):
        read_conversations(path, folder / "gone")


def test_a_limit_counts_rows_of_the_file(folder):
    bad, good = {"conversations": [ASK]}, {"conversations": [ASK, ANSWER]}
    found = read_conversations(write(folder, good, bad, good, good), limit=3, on_error="skip")
    assert ([sample.row for sample in found.samples], len(found.bad)) == ([0, 2], 1)
    assert isinstance(found, Conversations) and found.provenance("train").splits == {"train": 2}


def test_the_list_of_bad_samples_has_each_once(tmp_path):
    path = tmp_path / "run" / "bad.jsonl"
    list_bad_samples(path, [])
    assert not path.exists()
    list_bad_samples(path, ["one", "two"])
    list_bad_samples(path, ["one"])
    assert reasons_in(path) == ["one", "two"]


@pytest.mark.parametrize(
    "fields",
    [{"fps": 0}, {"max_frames": 0}, {"model_max_length": 0}, {"max_visual_tokens": -1}, {"fps": float("nan")}],
)
def test_arguments_outside_their_range(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        ConversationDataArguments(**fields)
