"""What people give as conversations, each with what is made of it: a table."""

import json

import pytest

from dna_hf.data.conversations import read_conversations
from dna_hf.data.errors import DataError


ASK, ANSWER = {"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "A carrot."}
USER, ASSISTANT = {"role": "user", "content": "What is this?"}, {"role": "assistant", "content": "A carrot."}
VIDEO, IMAGE = ("video", "a.mp4"), ("image", "a.png")
QUESTION = "What is this?"


def turns(text, *more):
    return [{"from": "human", "value": text}, ANSWER, *more]


def messages(content, *more):
    return [{"role": "user", "content": content}, ASSISTANT, *more]


def part(kind, **fields):
    return {"type": kind, **fields}


TEXT = part("text", text=QUESTION)
CUT = ("video", "a.mp4", {"start": 0.5, "end": 1.0})

# what is given -> what the first question (or all turns) consists of
READ = {
    "plain": ({"conversations": [ASK, ANSWER]}, [QUESTION]),
    "video": ({"video": "a.mp4", "conversations": [ASK, ANSWER]}, [VIDEO, QUESTION]),
    "video in a list": ({"video": ["a.mp4"], "conversations": [ASK, ANSWER]}, [VIDEO, QUESTION]),
    "videos": ({"videos": ["a.mp4"], "conversations": [ASK, ANSWER]}, [VIDEO, QUESTION]),
    "videos, not in a list": ({"videos": "a.mp4", "conversations": [ASK, ANSWER]}, [VIDEO, QUESTION]),
    "videos with a tag": ({"videos": ["a.mp4"], "conversations": turns("What? <video>")}, ["What?", VIDEO]),
    "video_path": ({"video_path": "a.mp4", "conversations": [ASK, ANSWER]}, [VIDEO, QUESTION]),
    "images": ({"images": ["a.png"], "conversations": [ASK, ANSWER]}, [IMAGE, QUESTION]),
    "image_path": ({"image_path": "a.png", "conversations": [ASK, ANSWER]}, [IMAGE, QUESTION]),
    "video and image": (
        {"videos": ["a.mp4"], "images": ["a.png"], "conversations": turns("<image> in <video>?")},
        [IMAGE, "in", VIDEO, "?"],
    ),
    "two videos, two places": (
        {"videos": ["a.mp4", "b.mp4"], "conversations": turns("<video> or <video>?")},
        [VIDEO, "or", ("video", "b.mp4"), "?"],
    ),
    "no video": ({"video": None, "images": None, "conversations": [ASK, ANSWER]}, [QUESTION]),
    "capital tags": ({"video": "a.mp4", "conversations": turns("<VIDEO> What?")}, [VIDEO, "What?"]),
    "tag with a capital": ({"image": "a.png", "conversations": turns("<Image>What?")}, [IMAGE, "What?"]),
    "messages": ({"messages": [USER, ASSISTANT]}, [QUESTION]),
    "messages with videos": ({"videos": ["a.mp4"], "messages": [USER, ASSISTANT]}, [VIDEO, QUESTION]),
    "messages with a tag": ({"videos": ["a.mp4"], "messages": messages("What? <video>")}, ["What?", VIDEO]),
    "messages with from and value": ({"messages": [ASK, ANSWER]}, [QUESTION]),
    "conversations with role and content": ({"conversations": [USER, ASSISTANT]}, [QUESTION]),
    "parts": ({"messages": messages([part("video", video="a.mp4"), TEXT])}, [VIDEO, QUESTION]),
    "parts, text first": ({"messages": messages([TEXT, part("image", image="a.png")])}, [QUESTION, IMAGE]),
    "parts with path": ({"messages": messages([part("video", path="a.mp4"), TEXT])}, [VIDEO, QUESTION]),
    "parts with url": ({"messages": messages([part("image", url="a.png"), TEXT])}, [IMAGE, QUESTION]),
    "file address": ({"messages": messages([part("video", video="file://{}/a.mp4"), TEXT])}, [VIDEO, QUESTION]),
    "image_url": ({"messages": messages([part("image_url", image_url={"url": "a.png"}), TEXT])}, [IMAGE, QUESTION]),
    "video_url": ({"messages": messages([part("video_url", video_url={"url": "a.mp4"}), TEXT])}, [VIDEO, QUESTION]),
    "places in parts, files in the sample": (
        {"images": ["a.png"], "messages": messages([part("image"), TEXT])},
        [IMAGE, QUESTION],
    ),
    "answer in parts": (
        {"messages": [USER, {"role": "assistant", "content": [part("text", text="A carrot.")]}]},
        [QUESTION],
    ),
    "part of the sample's video": (
        {"video": "a.mp4", "start": 0.5, "end": 1, "conversations": [ASK, ANSWER]},
        [CUT, QUESTION],
    ),
    "start_time, end_time": (
        {"video": "a.mp4", "start_time": 0.5, "end_time": 1, "conversations": [ASK, ANSWER]},
        [CUT, QUESTION],
    ),
    "part in a part": (
        {"messages": messages([part("video", video="a.mp4", start=0.5, end=1), TEXT])},
        [CUT, QUESTION],
    ),
    "fps in a part": (
        {"messages": messages([part("video", video="a.mp4", fps=2), TEXT])},
        [("video", "a.mp4", {"fps": 2.0}), QUESTION],
    ),
    "max_frames": (
        {"messages": messages([part("video", video="a.mp4", max_frames=8), TEXT])},
        [("video", "a.mp4", {"max_frames": 8}), QUESTION],
    ),
    "num_frames": (
        {"messages": messages([part("video", video="a.mp4", num_frames=4), TEXT])},
        [("video", "a.mp4", {"num_frames": 4}), QUESTION],
    ),
    "as VideoLLaMA3 writes it": (
        {
            "messages": messages(
                [
                    part(
                        "video",
                        video={"video_path": "a.mp4", "fps": 1, "max_frames": 180, "start_time": 0.5, "end_time": 1},
                    ),
                    TEXT,
                ]
            )
        },
        [("video", "a.mp4", {"start": 0.5, "end": 1.0, "fps": 1.0, "max_frames": 180}), QUESTION],
    ),
    "clock times": (
        {"video": "a.mp4", "start": "00:00.5", "end": "0:01", "conversations": [ASK, ANSWER]},
        [CUT, QUESTION],
    ),
    "filled up with nothing": (
        {"messages": messages([part("video", video="a.mp4", text=None, image=None), TEXT]), "extra": None},
        [VIDEO, QUESTION],
    ),
    "fps of the sample": (
        {"video": "a.mp4", "fps": 0.5, "conversations": [ASK, ANSWER]},
        [("video", "a.mp4", {"fps": 0.5}), QUESTION],
    ),
    "videos as objects": (
        {"videos": [{"path": "a.mp4", "fps": 2}, {"path": "b.mp4"}], "conversations": turns("<video> or <video>?")},
        [("video", "a.mp4", {"fps": 2.0}), "or", ("video", "b.mp4"), "?"],
    ),
    "what only describes": ({"source": "x", "url": "y", "id": 3, "conversations": [ASK, ANSWER]}, [QUESTION]),
}
SYSTEMS = {
    "system": {"system": "Be brief.", "conversations": [ASK, ANSWER]},
    "system_prompt": {"system_prompt": "Be brief.", "messages": [USER, ASSISTANT]},
    "turn": {"conversations": [{"from": "system", "value": "Be brief."}, ASK, ANSWER]},
    "message": {"messages": [{"role": "system", "content": "Be brief."}, USER, ASSISTANT]},
    "message in parts": {
        "messages": [{"role": "system", "content": [part("text", text="Be brief.")]}, USER, ASSISTANT]
    },
}

# what is given -> a part of the sentence
REFUSED = {
    "files in the sample and in parts": (
        {"video": "a.mp4", "messages": messages([part("video", video="a.mp4"), TEXT])},
        "it names files in 'video' and in parts of its turns: leave one out",
    ),
    "times in a key that describes": (
        {"duration": [2, 4], "conversations": [ASK, ANSWER]},
        "it has the key 'duration'",
    ),
    "times in metadata": ({"metadata": {"start": 2}, "conversations": [ASK, ANSWER]}, "it has the key 'metadata'"),
    "a billion frames a second": (
        {"video": "a.mp4", "fps": 1e9, "conversations": [ASK, ANSWER]},
        "must be a number above 0 and at most 1,000",
    ),
    "typo of video": (
        {"vidoe": "a.mp4", "conversations": [ASK, ANSWER]},
        "'vidoe', which nothing is made of: did you",
    ),
    "unknown key": (
        {"xyz": 1, "conversations": [ASK, ANSWER]},
        "it has the key 'xyz', which nothing is made of: known",
    ),
    "tools": ({"tools": "[]", "conversations": [ASK, ANSWER]}, "it has the key 'tools'"),
    "unknown key of a turn": ({"conversations": [ASK | {"weight": 0}, ANSWER]}, "turn 1 has the key 'weight'"),
    "unknown key of a message": (
        {"messages": [USER, ASSISTANT | {"tool_calls": []}]},
        "turn 2 has the key 'tool_calls'",
    ),
    "both": ({"conversations": [ASK, ANSWER], "messages": [USER, ASSISTANT]}, "both 'conversations' and 'messages'"),
    "video twice": (
        {"video": "a.mp4", "videos": ["b.mp4"], "conversations": [ASK, ANSWER]},
        "both 'video' and 'videos'",
    ),
    "system twice": (
        {"system": "A", "conversations": [{"from": "system", "value": "B"}, ASK, ANSWER]},
        "a system turn in 'system' and in 'conversations'",
    ),
    "system is a number": ({"system": 3, "conversations": [ASK, ANSWER]}, "field 'system' must be text, got a number"),
    "unknown part": ({"messages": messages([part("audio", audio="a.wav"), TEXT])}, "turn 1, part 1 must be an object"),
    "part without type": ({"messages": messages([{"text": "What?"}])}, "turn 1, part 1 must be an object with a type"),
    "typo in a part": (
        {"messages": messages([part("video", video="a.mp4", fsp=2), TEXT])},
        "part 1 has the key 'fsp'",
    ),
    "pixels in a part": (
        {"messages": messages([part("video", video="a.mp4", max_pixels=3136), TEXT])},
        "has the key 'max_pixels'",
    ),
    "fps of an image": ({"messages": messages([part("image", image="a.png", fps=1), TEXT])}, "has the key 'fps'"),
    "text with more": ({"messages": messages([part("text", text="a", lang="de")])}, "part 1 has the key 'lang'"),
    "fps is text": ({"messages": messages([part("video", video="a.mp4", fps="2")])}, "'fps' must be a number above 0"),
    "fps is 0": (
        {"messages": messages([part("video", video="a.mp4", fps=0)])},
        "'fps' must be a number above 0 and at most 1,000, got 0",
    ),
    "half a frame": (
        {"messages": messages([part("video", video="a.mp4", max_frames=1.5)])},
        "'max_frames' must be a whole number above 0 and at most 100,000, got 1.5",
    ),
    "end before start": (
        {"video": "a.mp4", "start": 2, "end": 1, "conversations": [ASK, ANSWER]},
        "it ends at 1 s, which is not after its start at 2 s",
    ),
    "end of the video before the start of the sample": (
        {"video": {"path": "a.mp4", "end": 1}, "start": 2, "conversations": [ASK, ANSWER]},
        "it ends at 1 s, which is not after its start at 2 s",
    ),
    "fps and num_frames": (
        {"messages": messages([part("video", video="a.mp4", fps=1, num_frames=4), TEXT])},
        "part 1 has both 'fps' and 'num_frames': leave one out",
    ),
    "max_frames of the sample, num_frames of the video": (
        {"video": {"path": "a.mp4", "num_frames": 4}, "max_frames": 8, "conversations": [ASK, ANSWER]},
        "it has both 'max_frames' and 'num_frames': leave one out",
    ),
    "start twice": (
        {"video": "a.mp4", "start": 1, "start_time": 1, "conversations": [ASK, ANSWER]},
        "both 'start' and 'start_time'",
    ),
    "part of several videos": (
        {"videos": ["a.mp4", "b.mp4"], "start": 1, "conversations": [ASK, ANSWER]},
        "it has 'start' and several videos: write it into their parts",
    ),
    "part of no video": ({"start": 1, "conversations": [ASK, ANSWER]}, "it has 'start', but no video of its own"),
    "address": ({"video": "https://x/a.mp4", "conversations": [ASK, ANSWER]}, "names the address 'https://x/a.mp4'"),
    "missing in a part": ({"messages": messages([part("video", video="c.mp4"), TEXT])}, "part 1: there is no file"),
    "place without a file": ({"messages": messages([part("video"), TEXT])}, "has 1 <video> for 0 files"),
    "video in an answer": (
        {"messages": [USER, {"role": "assistant", "content": [part("image", image="a.png")]}]},
        "turn 2, from 'assistant', has a tag <image>",
    ),
    "role of a tool": (
        {"messages": [USER, {"role": "tool", "content": "1"}]},
        "'role' must be user, assistant or system",
    ),
    "no answer": ({"messages": [USER]}, "field 'messages' has no turn from 'assistant' to learn"),
    "empty parts": ({"messages": messages([])}, "turn 1, from 'user', is empty"),
    "content is a number": ({"messages": messages(3)}, "turn 1 must have 'role' and 'content'"),
    "mixed turns": ({"conversations": [ASK, ASSISTANT]}, "turn 2 must have 'from' and 'value', both text"),
}


@pytest.fixture
def folder(tmp_path):
    for name in ("a.mp4", "b.mp4", "a.png"):
        (tmp_path / name).touch()
    return tmp_path


def read(folder, sample, **options):
    (folder / "train.json").write_text(json.dumps([sample]).replace("file://{}", f"file://{folder}"))
    return read_conversations(folder / "train.json", **options)


def short(folder, part):
    """A part of a message: its text, or kind, file and settings."""
    if part["type"] == "text":
        return part["text"]
    source = part[part["type"]]
    path = source["path"] if isinstance(source, dict) else source
    times = {name: source[name] for name in ("start", "end")} if isinstance(source, dict) else {}
    settings = times | {name: value for name, value in part.items() if name not in ("type", part["type"])}
    return (part["type"], path.removeprefix(f"{folder}/"), *([settings] if settings else []))


@pytest.mark.parametrize(("sample", "expected"), READ.values(), ids=READ.keys())
def test_what_is_read(folder, sample, expected):
    found = read(folder, sample).samples[0].messages
    assert [message["role"] for message in found] == ["user", "assistant"]
    assert [short(folder, part) for part in found[0]["content"]] == expected
    assert found[1]["content"] == [{"type": "text", "text": "A carrot."}]


@pytest.mark.parametrize("sample", SYSTEMS.values(), ids=SYSTEMS.keys())
def test_a_system_turn_goes_first(folder, sample):
    for system in (None, "Of the run."):
        found = read(folder, sample, system=system).samples[0].messages
        assert [message["role"] for message in found] == ["system", "user", "assistant"]
        assert found[0]["content"] == [{"type": "text", "text": "Be brief."}]


def test_the_system_turn_of_a_run_is_for_samples_without_one(folder):
    for given in ({}, {"system": ""}, {"system": None}):
        sample = {"conversations": [ASK, ANSWER]} | given
        found = read(folder, sample, system="Of the run.").samples[0].messages
        assert found[0] == {"role": "system", "content": [{"type": "text", "text": "Of the run."}]}
        assert read(folder, sample).samples[0].messages[0]["role"] == "user"


@pytest.mark.parametrize(("sample", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_by_name(folder, sample, sentence):
    with pytest.raises(DataError) as caught:
        read(folder, sample)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("'train.json', entry 1")


def test_what_a_file_was_read_as(folder):
    (folder / "train.json").write_text(
        json.dumps(
            [{"messages": [USER, ASSISTANT]}, {"conversations": [ASK, ANSWER]}, {"messages": [USER, ASSISTANT]}]
        )
    )
    assert read_conversations(folder / "train.json").forms == {
        "messages with role and content": 2,
        "conversations with from and value": 1,
    }
