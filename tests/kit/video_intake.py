"""Data sets of videos as people give them, written into a folder, and what is expected of them. Files are empty."""

import json
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Case:
    """One thing that people give.

    Args:
        name: name of the case.
        files: empty files, `train/jump/#.mp4 x3` are three, and `@` is a comma.
        tables: name of a table -> its text, its bytes, or rows to be written as JSON.
        clips: split -> clips, as `path label`, with ` start-end` in seconds or ` first:last` in frames behind them, or
            ` #n` for a folder of so many frames.
        error: regular expression for the sentence, where the data set is refused.
        options: fields of section `data`.
        dataset: path of the data set inside the folder.
        split: the one split that is read; by default those of training.
        left_out: path -> regular expression for why it is left out; all that are left out.
        note: regular expression for one of the notes.
    """

    name: str
    files: str = ""
    tables: dict[str, Any] = field(default_factory=dict)
    clips: dict[str, list[str]] = field(default_factory=dict)
    error: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    dataset: str = "."
    split: str | None = "train"
    left_out: dict[str, str] = field(default_factory=dict)
    note: str | None = None

    def build(self, root: Path) -> None:
        """Write the data set into a folder."""
        for pattern in self.files.split(", ") if self.files else ():
            name, _, count = pattern.partition(" x")
            for number in range(int(count or 1)):
                path = root / name.replace("#", str(number)).replace("@", ",")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        for name, content in self.tables.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, str | bytes):
                content = json.dumps(content)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


VIDEOS = "a.mp4, b.mp4"
TWO = {"train": ["a.mp4 x", "b.mp4 y"]}
JUMP_AND_RUN = "jump/a.mp4, run/b.mp4"
FOLDERS = {"train": ["jump/a.mp4 jump", "run/b.mp4 run"]}


def table(
    name: str, text: str | bytes | list, clips: list[str] | None = None, files: str = VIDEOS, **more: Any
) -> Case:
    """A case of one table, `train.csv` where it does not say."""
    file = more.pop("file", "train.csv")
    return Case(name, files, {file: text}, {"train": clips or TWO["train"]} if "error" not in more else {}, **more)


def suffixes(*names: str) -> list[Case]:
    return [
        Case(
            f"suffix {name}",
            f"jump/a.mp4, wave/b{name}",
            clips={"train": ["jump/a.mp4 jump", f"wave/b{name} wave"]},
        )
        for name in names
    ]


def split_folders(train: str, evaluation: str, found: tuple[str, str]) -> Case:
    return Case(
        f"splits {train} {evaluation}",
        ", ".join(f"{split}/{name}" for split in (train, evaluation) for name in JUMP_AND_RUN.split(", ")),
        clips={
            name: [f"{split}/{clip}" for clip in FOLDERS["train"]]
            for name, split in zip(found, (train, evaluation), strict=True)
        },
        split=None,
    )


def columns(start: str, end: str, first: str = "0,1.5", clips: list[str] | None = None, **more: Any) -> Case:
    """A table with a part for each of two clips of one video."""
    text = f"path,label,{start},{end}\na.mp4,x,{first}\na.mp4,y,2,3\n"
    clips = clips or ["a.mp4 x 0.0-1.5", "a.mp4 y 2.0-3.0"]
    return table(f"columns {start} {end} {first}{' refused' * ('error' in more)}", text, clips, "a.mp4", **more)


FRAMES = "k/f/#.jpg x8, k/g/#.png x8"
KINETICS = "train/x/-3B32lodo2M_000010_000020.mp4, train/y/zzz_000000_000010.mp4"
SMARTHOME = "Walk_p03_r00_v01_c01.mp4, Enter_p03_r00_v01_c01.mp4"
LATIN = unicodedata.normalize("NFC", "höhe.mp4")
APART = unicodedata.normalize("NFD", "höhe.mp4")

CASES = [
    *suffixes(".gif", ".wmv", ".mpg", ".mpeg", ".ts", ".3gp", ".flv", ".ogv", ".m4v", ".MP4", ".MOV", ".mts", ".Mkv"),
    Case(
        "what is no video is named",
        f"{JUMP_AND_RUN}, jump/notes.pdf, run/x.srt, loose.mp4, jump/thumb.jpg",
        clips=FOLDERS,
        left_out={
            "jump/notes.pdf": ".pdf is no video",
            "run/x.srt": ".srt is no video",
            "loose.mp4": "in no class folder",
            "jump/thumb.jpg": "image beside videos",
        },
    ),
    Case(
        "clutter is no class",
        f"{JUMP_AND_RUN}, __MACOSX/jump/._a.mp4, __MACOSX/x.mp4, .git/x.mp4, jump/.b.mp4, jump/Thumbs.db",
        clips=FOLDERS,
    ),
    Case(
        "frames of other formats",
        "jump/c/#.webp x2, run/d/#.bmp x2, sit/e/#.tif x2",
        clips={"train": ["jump/c jump #2", "run/d run #2", "sit/e sit #2"]},
    ),
    split_folders("training_set", "testing_set", ("train", "test")),
    split_folders("train", "eval", ("train", "test")),
    split_folders("Train", "VAL", ("Train", "VAL")),
    split_folders("videos_train", "videos_val", ("train", "validation")),
    split_folders("train2019", "val2019", ("train", "validation")),
    Case(
        "a folder beside splits",
        "train/jump/a.mp4, train/run/b.mp4, val/jump/a.mp4, extra/jump/c.mp4",
        error="folder 'extra' lies beside 'train', a split",
    ),
    split_folders("01_train", "02_test", ("train", "test")),
    Case(
        "splits of unknown names",
        "seen/jump/a.mp4, seen/run/b.mp4, unseen/jump/a.mp4, unseen/run/b.mp4",
        error="'seen' and 'unseen' hold the same folders .jump, run.* set train_split",
    ),
    Case("splits below classes", "jump/train/a.mp4, jump/test/b.mp4, run/train/c.mp4", error="put the splits above"),
    Case(
        "a wrapper",
        "data/jump/a.mp4, data/run/b.mp4",
        clips={"train": [f"data/{c}" for c in FOLDERS["train"]]},
        note="holds but one folder, 'data'",
    ),  # fmt: skip
    # lists beside folders
    *(
        Case(
            f"{name} beside folders",
            f"{JUMP_AND_RUN}, run/c.mp4",
            {name: text},
            {"train": ["jump/a.mp4 x", "run/b.mp4 y"]},
            left_out={"run/c.mp4": "named in no table"},
            **({"note": "labels are those of table 'metadata.csv'"} if "metadata" in name else {}),
        )
        for name, text in {
            "metadata.csv": "file_name,label\njump/a.mp4,x\nrun/b.mp4,y\n",
            "train.tsv": "path\tlabel\njump/a.mp4\tx\nrun/b.mp4\ty\n",
            "train_list.txt": "jump/a.mp4 x\nrun/b.mp4 y\n",
            "trainlist01.txt": "jump/a.mp4 x\nrun/b.mp4 y\n",
            "annotations/train_labels.csv": "path,label\njump/a.mp4,x\nrun/b.mp4,y\n",
        }.items()
    ),
    Case(
        "a list of names beside folders",
        f"{JUMP_AND_RUN}, run/c.mp4",
        {"train.txt": "jump/a.mp4\nrun/b.mp4\n"},
        FOLDERS,
        left_out={"run/c.mp4": "named in no table"},
        note="the folder of each is its class",
    ),
    Case(
        "metadata without labels beside folders",
        JUMP_AND_RUN,
        {"metadata.csv": "file_name,camera\njump/a.mp4,1\n", "README.txt": "two words\n"},
        FOLDERS,
        left_out={"metadata.csv": "no table of videos and labels", "README.txt": "no table of videos and labels"},
    ),
    Case(
        "two tables beside folders",
        JUMP_AND_RUN,
        {"all.csv": "path,label\njump/a.mp4,x\n", "metadata.csv": "path,label\njump/a.mp4,x\n"},
        error="two tables of videos, 'all.csv' and 'metadata.csv'",
    ),
    Case(
        "two lists of one split",
        JUMP_AND_RUN,
        {"trainlist01.txt": "jump/a.mp4 1\n", "trainlist02.txt": "jump/a.mp4 1\n"},
        error="two tables, 'trainlist01.txt' and 'trainlist02.txt'",
    ),
    # parts of videos
    columns("start_time", "end_time", note="'start_time' to 'end_time' says, in seconds"),
    columns("start", "stop"),
    columns("Start_Sec", "End_Sec"),
    columns("start_timestamp", "stop_timestamp", "00:00:00.0,00:00:01.5"),
    columns("time_start", "time_end"),
    columns("von", "bis", options={"start_column": "von", "end_column": "bis"}),
    columns("start_frame", "end_frame", "0,5", ["a.mp4 x 0:5", "a.mp4 y 2:3"], note="in frames counted from 0"),
    columns("begin_frame", "stop_frame", "0,5.0", ["a.mp4 x 0:5", "a.mp4 y 2:3"]),
    columns(
        "f1",
        "f2",
        "0,5",
        ["a.mp4 x 0:5", "a.mp4 y 2:3"],
        options={"start_frame_column": "f1", "end_frame_column": "f2"},
    ),  # fmt: skip
    columns("offset", "num_frames", "0,5", ["a.mp4 x 0:5", "a.mp4 y 2:5"]),
    columns("onset", "duration", error="column 'onset' of 'train.csv' looks like a time"),
    columns("clipTime", "x", error="column 'clipTime' of 'train.csv' looks like a time"),
    columns("start_time", "end_time", "3,1", error="line 2 of 'train.csv' ends at 1.0 seconds"),
    columns(
        "start_frame", "end_frame", "1.5,4", error="line 2 .* has '1.5' in 'start_frame', which is no number of a"
    ),
    columns("start", "end", "soon,4", error="line 2 of 'train.csv' has 'soon' in 'start', which is no time"),
    columns("von", "bis", options={"start_column": "vom"}, error="has no column 'vom': set start_column to one of"),
    columns("fps", "camera", "25,1", ["a.mp4 x", "a.mp4 x"], error="line 3 .* says that 'a.mp4' is 'y'"),
    table("columns that are not used", "path,label,fps\na.mp4,x,25\nb.mp4,y,25\n", note="not used: 'fps'"),
    table(
        "parts in JSON",
        [{"video": "a.mp4", "label": "x", "start": 1, "end": 2}, {"video": "b.mp4", "label": "y"}],
        ["a.mp4 x 1.0-2.0", "b.mp4 y"],
        file="train.json",
    ),  # fmt: skip
    # folders of frames
    table(
        "TSN",
        "k/f 6 0\nk/g 8 1\n",
        ["k/f 0 #6", "k/g 1 #8"],
        FRAMES,
        file="train.txt",
        note="a folder, a number of frames and a label",
    ),  # fmt: skip
    table(
        "TSN with offset",
        "k/f 2 5 0\nk/g 0 8 1\n",
        ["k/f 0 #5", "k/g 1 #8"],
        FRAMES,
        file="train.txt",
        note="the frames before the clip",
    ),  # fmt: skip
    table("TSN with commas", "k/f,6,0\nk/g,8,1\n", ["k/f 0 #6", "k/g 1 #8"], FRAMES),
    table(
        "TSN, too many frames",
        "k/f 9 0\nk/g 8 1\n",
        files=FRAMES,
        file="train.txt",
        error="line 1 of 'train.txt' takes the frames 0 to 9 of 'k/f', which has 8",
    ),  # fmt: skip
    table("TSN, no frames", "k/f 0 0\nk/g 8 1\n", files=FRAMES, file="train.txt", error="takes 0 frames of 'k/f'"),
    table(
        "folders with spaces and numbers",
        "take 1 0\ntake 2 1\n",
        ["take 1 0 #2", "take 2 1 #2"],
        "take 1/#.jpg x2, take 2/#.jpg x2",
        file="train.txt",
    ),  # fmt: skip
    table(
        "frames of folders by columns",
        "path,start_frame,end_frame,label\nk/f,2,4,x\nk/g,0,8,y\n",
        ["k/f x #2", "k/g y #8"],
        FRAMES,
    ),  # fmt: skip
    table(
        "seconds of folders",
        "path,start,end,label\nk/f,2,4,x\nk/g,0,8,y\n",
        files=FRAMES,
        error="line 2 .* in seconds, but it is a folder of frames",
    ),  # fmt: skip
    # names and separators
    table("semicolons", "a.mp4;x\nb.mp4;y\n"),
    table("semicolons and a header", "path;label\na.mp4;x\nb.mp4;y\n"),
    table("bars", "a.mp4|x\nb.mp4|y\n"),
    table("UTF-16", "path,label\na.mp4,x\nb.mp4,y\n".encode("utf-16")),
    table("Latin-1", "a.mp4,höhe\n".encode("latin-1"), error="is no text in UTF-8"),
    table(
        "backslashes",
        "jump\\a.mp4,x\nrun\\b.mp4,y\n",
        ["jump/a.mp4 x", "run/b.mp4 y"],
        JUMP_AND_RUN,
        note="2 of the names in 'train.csv' are with backslashes",
    ),  # fmt: skip
    table("composed names", f"{LATIN},x\nb.mp4,y\n", [f"{APART} x", "b.mp4 y"], f"{APART}, b.mp4"),
    table(
        "decomposed names",
        f"{APART},x\nb.mp4,y\n",
        [f"{LATIN} x", "b.mp4 y"],
        f"{LATIN}, b.mp4",
        note="another Unicode form",
    ),  # fmt: skip
    table("no suffix", "a 0\nb 1\n", ["a.mp4 0", "b.webm 1"], "a.mp4, b.webm", note="without the suffix"),
    table("two files for one name", "a 0\nb 1\n", files="a.mp4, a.webm, b.mp4", error="'a', and there are 2 such"),
    table(
        "Kinetics ids",
        "-3B32lodo2M 0\nzzz 1\n",
        ["train/x/-3B32lodo2M_000010_000020.mp4 0", "train/y/zzz_000000_000010.mp4 1"],
        KINETICS,
        note="without the times",
    ),  # fmt: skip
    table(
        "names alone in folders",
        "a.mp4 0\nb.mp4 1\n",
        ["jump/a.mp4 0", "run/b.mp4 1"],
        JUMP_AND_RUN,
        note="without the folder",
    ),  # fmt: skip
    table(
        "unquoted commas",
        "one, two.mp4,x\nb.mp4,y\nc.mp4,y\n",
        ["one, two.mp4 x", "b.mp4 y", "c.mp4 y"],
        "one@ two.mp4, b.mp4, c.mp4",
    ),  # fmt: skip
    table(
        "unquoted commas under a header",
        "path,label\nb.mp4,y\none, two.mp4,x\n",
        error="line 3 of 'train.csv' has 3 fields, the header 2: put quotes",
    ),  # fmt: skip
    table("label first", "x a.mp4\ny b.mp4\n", note="a label and a video, in this order"),
    table("label first with commas", "x,a.mp4\ny,b.mp4\n"),
    table("several labels behind a bar", "a.mp4 0|1\nb.mp4 1\n", error="line 1 of 'train.csv' has the labels '0|1'"),
    table("several labels in quotes", 'path,label\na.mp4,"x,y"\nb.mp4,x\na.mp4,y\n', error="line 2 .* labels 'x,y'"),
    table("several labels as fields", "a.mp4 0 1\nb.mp4 1 2\n", error="has 0 and 1 behind the video 'a.mp4'"),
    table(
        "several labels in JSON",
        [{"path": "a.mp4", "label": [0, 1]}],
        file="train.json",
        error=r"row 1 of 'train.json' has the labels \[0, 1\]",
    ),  # fmt: skip
    table("another suffix", "a.avi 0\nb.mp4 1\n", error="line 1 of 'train.csv': there is '.*a.mp4': correct the name"),
    table("other letters", "b.mp4 1\nA.mp4 0\n", error="line 2 of 'train.csv': there is '.*a.mp4': correct the name"),
    table("another folder", "v/a.mp4 0\nv/b.mp4 1\n", error="'.*a.mp4' has this name in another folder"),
    table("no videos at all", "a.mp4 0\nb.mp4 1\n", files="", error="no videos lie in '.*': set video_root"),
    # hidden tests
    *(
        Case(
            f"a hidden test, {name}",
            "#.mp4 x5",
            {"train.csv": "path,label\n0.mp4,x\n1.mp4,x\n2.mp4,y\n3.mp4,y\n", "test.csv": text},
            {"train": ["0.mp4 x", "2.mp4 y"], "held out": ["1.mp4 x", "3.mp4 y"]},
            options={"validation_fraction": 0.5},
            split=None,
            note="'test' has no labels",
        )
        for name, text in {
            "no column": "path\n4.mp4\n",
            "an empty one": "path,label\n4.mp4,\n",
            "ids": "4.mp4\n",
        }.items()
    ),
    # protocols
    Case(
        "names that are no class of a protocol",
        f"{SMARTHOME}, Watchtv_p03_r00_v01_c01.mp4, Pour.Fromcup_p03_r00_v01_c01.mp4, holiday.mp4",
        clips={"train": ["Enter_p03_r00_v01_c01.mp4 Enter", "Walk_p03_r00_v01_c01.mp4 Walk"]},
        options={"protocol": "smarthome-cs"},
        left_out={
            "Watchtv_p03_r00_v01_c01.mp4": "'Watchtv' is no class of smarthome-cs: is 'WatchTV' meant",
            "Pour.Fromcup_p03_r00_v01_c01.mp4": "'Pour.Fromcup' is no class of smarthome-cs: is 'Pour.From",
            "holiday.mp4": "its name is none of smarthome-cs",
        },
    ),
]
