"""Conversations with a tiny model: what is shown and remembered, commands, and errors that do not end them."""

import io
import sys

import pytest
import torch

from dna_hf.chat import Chat
from dna_hf.cli import main
from dna_hf.cli.conversation import HELP, converse
from dna_hf.data.errors import DataError
from tests.kit.taught_video_llm import tiny_video_llm, train_turns, turn, write_colours


WHAT, WHICH = "What is shown?", "And before?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="module")
def taught(folder):
    """A model that tells colours, and remembers the one that was shown before."""
    model, processor = tiny_video_llm()
    red, blue = ([("video", str(folder / f"{colour}.mp4"))] for colour in ("red", "blue"))
    picture = [("image", str(folder / "red.png"))]
    train_turns(
        model,
        processor,
        [
            [turn(WHAT, picture), "An image."],
            [turn(WHAT, []), "Nothing."],
            [turn(WHAT, red), "It is red.", turn(WHICH, []), "Only red."],
            [turn(WHAT, blue), "It is blue.", turn(WHICH, picture), "The video."],
        ],
    )
    return model, processor


@pytest.fixture(scope="module")
def checkpoint(taught, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    for part in taught:
        part.save_pretrained(folder)
    return str(folder)


def test_what_is_shown_and_remembered(taught, folder):
    chat = Chat(*taught, max_new_tokens=16)
    assert chat.ask(WHAT) == "Nothing."
    chat.reset()
    chat.show("video", str(folder / "red.mp4"))
    assert chat.ask(WHAT) == "It is red."
    assert chat.ask(WHICH) == "Only red."
    chat.reset()
    chat.show("video", str(folder / "blue.mp4"))
    assert chat.ask(WHAT) == "It is blue."
    chat.show("image", str(folder / "red.png"))
    assert chat.ask(WHICH) == "The video."
    chat.reset()
    chat.show("image", str(folder / "red.png"))
    assert chat.ask(WHAT) == "An image."


def test_a_conversation_of_lines(taught, folder, capsys):
    chat = Chat(*taught, stream=True, max_new_tokens=16)
    lines = [
        f"/video {folder / 'red.mp4'}",
        "",
        f"  {WHAT} ",
        WHICH,
        "/video",
        "/video none.mp4",
        f"/image {folder / 'red.mp4'}",
        "/reset",
        f'/video "{folder / "blue.mp4"}"',
        WHAT,
        "/dance now",
        "/help",
        "/quit",
        WHAT,
    ]
    converse(chat, lines)
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["It is red.", "Only red.", "It is blue.", *HELP.splitlines()]
    errors = printed.err.splitlines()
    assert errors[:2] == ["dna-hf: error: /video needs a path.", "dna-hf: error: video 'none.mp4' does not exist."]
    assert "cannot read image '" in errors[2] and "red.mp4': cannot identify image file" in errors[2]
    assert errors[3:] == ["dna-hf: error: there is no command /dance: /help lists them."]


def test_errors_leave_the_conversation_as_it_was(taught, folder, tmp_path, capsys):
    chat = Chat(*taught, videos={"max_visual_tokens": 3}, max_new_tokens=16)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DataError, match="cannot read video '.*broken.mp4'"):
        chat.show("video", str(broken))
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        chat.show("video", "https://example.org/clip.mp4")
    assert not chat.shown
    chat.show("video", str(folder / "red.mp4"))
    chat.ask(WHAT)
    before = list(chat.history)
    chat.show("video", str(folder / "blue.mp4"))
    with pytest.raises(DataError, match="do not fit max_visual_tokens=3"):
        chat.ask(WHAT)
    assert chat.history == before
    converse(chat, [WHAT, "/reset", WHAT])
    assert "do not fit max_visual_tokens=3" in capsys.readouterr().err
    assert len(chat.history) == 2
    with pytest.raises(DataError, match="max_frames must be an integer of at least 1"):
        Chat(*taught, videos={"max_frames": 0})


def test_an_interrupt_ends_the_answer_only(taught, capsys, monkeypatch):
    chat = Chat(*taught, max_new_tokens=16)
    ask = chat.ask

    def interrupted(question):
        if question == WHICH:
            raise KeyboardInterrupt
        return ask(question)

    monkeypatch.setattr(chat, "ask", interrupted)
    converse(chat, [WHICH, WHAT])
    assert "(interrupted)" in capsys.readouterr().err
    assert len(chat.history) == 2


def test_the_command(checkpoint, folder, capsys, monkeypatch):
    words = ["chat", checkpoint, "--device", "cpu", "--max_new_tokens", "16"]
    red = ["--video", str(folder / "red.mp4")]
    assert main([*words, *red, "--question", WHAT]) == 0
    assert capsys.readouterr().out == "It is red.\n"
    assert main([*words, "--image", str(folder / "red.png"), "--question", WHAT]) == 0
    assert capsys.readouterr().out == "An image.\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{WHAT}\n/video none.mp4\n{WHICH}"))
    assert main([*words, *red]) == 0
    printed = capsys.readouterr()
    assert printed.out == "It is red.\nOnly red.\n" and "video 'none.mp4' does not exist." in printed.err
    assert main([*words, "--video", "none.mp4"]) == 2
    assert "video 'none.mp4' does not exist." in capsys.readouterr().err
    assert main([*words, "--fps", "0", "--question", WHAT]) == 2
    assert "--fps: must be a number above 0" in capsys.readouterr().err


def test_drawn_answers_repeat_by_seed(checkpoint, capsys):
    def said(seed):
        state = torch.get_rng_state()
        words = ["chat", checkpoint, "--device", "cpu", "--max_new_tokens", "12", "--question", "Why?"]
        assert main([*words, "--temperature", "5", "--seed", str(seed)]) == 0
        torch.set_rng_state(state)
        return capsys.readouterr().out

    first = said(1)
    assert first == said(1) != said(2)
