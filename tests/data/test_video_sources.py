"""Finding labelled videos in folders, by protocols and in tables, and refusing what does not fit. Files are empty."""

import json
import re
import time
from pathlib import Path

import pytest

from dna_hf.data import video_listings, video_places, video_sources
from dna_hf.data.arguments import VideoDataArguments
from dna_hf.data.clips import Clip
from dna_hf.data.errors import DataError
from dna_hf.data.video_sources import describe, load_all, load_split, load_train_and_eval


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def arguments(dataset, **options):
    return VideoDataArguments(dataset=str(dataset), **options)


def labels(videos):
    """File name -> class name."""
    return {Path(clip.path).name: videos.class_names[clip.label] for clip in videos.clips}


@pytest.fixture
def videos(tmp_path):
    """A folder with a.mp4 to f.mp4."""
    touch(tmp_path, *(f"{name}.mp4" for name in "abcdef"))
    return tmp_path


@pytest.fixture
def class_folders(tmp_path):
    """Splits train and val of two classes, with awkward names and depths."""
    folder = tmp_path / "sports"
    for split, count in (("train", 4), ("val", 2)):
        touch(folder / split / "höher springen", *(f"take {number}.MP4" for number in range(count)))
        touch(folder / split / "run", *(f"group{number}/clip.webm" for number in range(count)))
    touch(folder, "notes.pdf", "train/run/.hidden.mp4", "train/run/subtitles.srt", ".cache/x/y.mp4")
    (folder / "train" / "empty").mkdir()
    return folder


def test_class_folders(class_folders):
    train, evaluation = load_train_and_eval(arguments(class_folders), seed=0)
    assert train.class_names == evaluation.class_names == ["höher springen", "run"]
    assert (len(train.clips), len(evaluation.clips), train.name, evaluation.name) == (8, 4, "train", "val")
    assert train.clips[0] == Clip(str(class_folders / "train" / "höher springen" / "take 0.MP4"), 0)
    assert load_split(arguments(class_folders), "validation") == load_split(arguments(class_folders), "val")


def test_class_folders_without_splits_hold_out_a_stratified_part(class_folders):
    given = arguments(class_folders / "train", validation_fraction=0.25)
    train, held = load_train_and_eval(given, seed=0)
    assert (len(train.clips), len(held.clips), held.name) == (6, 2, "held out")
    assert sorted(clip.label for clip in held.clips) == [0, 1]
    assert not {clip.path for clip in train.clips} & {clip.path for clip in held.clips}
    assert load_train_and_eval(given, seed=0) == (train, held)
    assert [clip.label for clip in train.clips] == [0, 0, 0, 1, 1, 1]


def test_folders_of_frames_are_clips_in_natural_order(tmp_path):
    for kind in ("jump", "run"):
        touch(tmp_path / kind / "clip1", *(f"img_{number}.jpg" for number in (10, 1, 2)), ".DS_Store")
    touch(tmp_path / "run", "whole.avi", "with video/thumbnail.jpg", "with video/x.mkv")
    split = load_split(arguments(tmp_path), "train")
    assert split.clips[0].path == str(tmp_path / "jump" / "clip1")
    assert [Path(frame).name for frame in split.clips[0].frames] == ["img_1.jpg", "img_2.jpg", "img_10.jpg"]
    assert all(Path(frame).is_file() for frame in split.clips[0].frames)
    assert sorted(Path(clip.path).name for clip in split.clips[1:]) == ["clip1", "whole.avi", "x.mkv"]
    touch(tmp_path, "walk/img_1.jpg")
    with pytest.raises(DataError, match="put the frames of each clip in a folder of its own"):
        load_split(arguments(tmp_path), "train")


def test_taking_fewer_videos_spreads_over_a_sorted_split(class_folders):
    train, evaluation = load_train_and_eval(arguments(class_folders, max_train_samples=4, max_eval_samples=99), seed=0)
    assert [clip.label for clip in train.clips] == [0, 0, 1, 1] and len(evaluation.clips) == 4
    assert [clip.label for clip in load_split(arguments(class_folders, max_eval_samples=2), "val").clips] == [0, 1]


def test_splits_of_other_names(class_folders):
    (class_folders / "train").rename(class_folders / "Training")
    (class_folders / "val").rename(class_folders / "camera 2")
    train, evaluation = load_train_and_eval(arguments(class_folders, eval_split="camera 2"), seed=0)
    assert (train.name, evaluation.name, len(evaluation.clips)) == ("Training", "camera 2", 4)


@pytest.mark.parametrize("name", ["valid", "val", "validate", "validation", "dev", "test"])
def test_the_usual_evaluation_splits_are_found(class_folders, name):
    touch(class_folders, "testing/run/x.mp4", "testing/höher springen/x.mp4")
    (class_folders / "val").rename(class_folders / name)
    assert load_train_and_eval(arguments(class_folders), seed=0)[1].name == name


SMARTHOME = [f"Cook.Cleanup_p{subject:02d}_r00_v01_c{camera:02d}" for subject in (2, 3) for camera in (1, 2, 5)]
SMARTHOME += [f"Walk_p{subject:02d}_r00_v01_c{camera:02d}" for subject in (2, 3) for camera in (1, 2, 5)]


def test_protocol(tmp_path):
    touch(tmp_path, *(f"mp4/{name}.mp4" for name in SMARTHOME))
    train, evaluation = load_train_and_eval(arguments(tmp_path, protocol="smarthome-cs"), seed=0)
    assert (len(train.clips), len(evaluation.clips), evaluation.name) == (6, 6, "test")
    assert len(train.class_names) == 31 and set(labels(train).values()) == {"Cook.Cleanup", "Walk"}
    train, evaluation = load_train_and_eval(arguments(tmp_path, protocol="smarthome-cv1"), seed=0)
    assert (len(train.clips), len(evaluation.clips), evaluation.name) == (2, 2, "validation")


def test_protocol_tells_what_is_missing(tmp_path):
    touch(tmp_path, *(f"{name}.mp4" for name in SMARTHOME[1:]))
    clip_list = write(
        tmp_path / "all.txt", "# all clips", *SMARTHOME[:6], "", *(f"mp4/{n}.mp4" for n in SMARTHOME[6:])
    )
    given = arguments(tmp_path, protocol="smarthome-cs", clip_list=clip_list)
    with pytest.raises(
        DataError, match=r"1 of 6 videos of split 'test' do not exist, e.g. 'Cook.Cleanup_p02_r00_v01_c01'"
    ):
        load_train_and_eval(given, seed=0)
    given.on_error = "skip"
    train, evaluation = load_train_and_eval(given, seed=0)
    assert (train.missing, evaluation.missing, len(evaluation.clips)) == ([], [SMARTHOME[0]], 5)
    table = describe(load_all(given).values()).splitlines()
    assert table[0].split() == ["class", "train", "test"]
    assert "Cook.Cleanup               3     2" in table
    assert table[-2].split() == ["all", "31", "6", "5"]
    assert table[-1] == "missing in test: 1 (Cook.Cleanup_p02_r00_v01_c01)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "smarthome"}, "unknown protocol 'smarthome'"),
        ({"protocol": "ntu60-xsub"}, "no file name is one of ntu60-xsub"),
        ({"protocol": "smarthome-cs", "clip_list": "nowhere.txt"}, "clip_list 'nowhere.txt'"),
        ({"protocol": "smarthome-cs", "clip_list": "{}/other.txt"}, "'S001C001P001R001A001', which is no name of"),
        ({"protocol": "smarthome-cs", "class_names": ["a", "b"]}, "leave class_names out"),
        ({"clip_list": "{}/other.txt"}, "set protocol"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_protocols_that_do_not_fit(tmp_path, options, message):
    touch(tmp_path, *(f"{name}.mp4" for name in SMARTHOME))
    write(tmp_path / "other.txt", "S001C001P001R001A001")
    options = {name: value.format(tmp_path) if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(DataError, match=re.escape(message)):
        load_train_and_eval(arguments(tmp_path, **options), seed=0)


def test_ntu_has_the_published_sizes(tmp_path, monkeypatch):
    trained = [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
    pairs = [(setup, trained[setup % 20]) for setup in range(112)] + [(setup, 3) for setup in range(46)]
    names = [
        f"S{setup:03d}C{camera:03d}P{subject:03d}R{repetition:03d}A{action:03d}"
        for setup, subject in pairs
        for camera in (1, 2, 3)
        for repetition in (1, 2)
        for action in range(1, 61)
    ]
    monkeypatch.setattr(video_listings, "find_videos", lambda folder: [f"{folder}/{name}_rgb.avi" for name in names])
    clip_list = write(tmp_path / "names.txt", *names)
    for protocol, sizes in (("ntu60-xsub", (40_320, 16_560)), ("ntu60-xview", (37_920, 18_960))):
        given = arguments(tmp_path, protocol=protocol, clip_list=clip_list)
        train, evaluation = load_train_and_eval(given, seed=0)
        assert (len(train.clips), len(evaluation.clips), len(train.class_names)) == (*sizes, 60)
        assert not train.missing and not evaluation.missing


@pytest.mark.parametrize("other", [[], ["holiday.mp4"], ["Walk_p99_r00_v01_c01.mp4"]], ids=["none", "name", "subject"])
def test_videos_in_no_split_are_warned_of(tmp_path, monkeypatch, other):
    touch(tmp_path, *(f"{name}.mp4" for name in SMARTHOME), *other)
    warnings = []
    monkeypatch.setattr(video_listings.logger, "warning", warnings.append)
    load_train_and_eval(arguments(tmp_path, protocol="smarthome-cs"), seed=0)
    assert len(warnings) == len(other) and all(name in warnings[0] for name in other)


HEADED = {
    "csv": ["video,label,start,end", "a.mp4,run,0,2.5", '"b.mp4",jump,,', "", "c.mp4,run,2,3"],
    "other names": [
        "id,Path,extra,CLASS,start,end",
        "7,a.mp4,x,run,0,2.5",
        "8, b.mp4, x, jump, , ",
        "9,c.mp4,x,run,2,3",
    ],
    "tabs": ["file_name\taction\tstart\tend", "a.mp4\trun\t0\t2.5", "b.mp4\tjump\t\t", "c.mp4\trun\t2\t3"],
}
RECORDS = [
    {"path": "a.mp4", "target": "run", "start": 0, "end": 2.5},
    {"path": "b.mp4", "target": "jump"},
    {"path": "c.mp4", "target": "run", "start": "2", "end": 3},
]
HEADED["jsonl"] = [json.dumps(record) for record in RECORDS]
HEADED["json"] = [json.dumps(RECORDS, indent=1)]


@pytest.mark.parametrize("kind", HEADED)
def test_tables_with_columns(videos, kind):
    suffix = kind if kind in ("jsonl", "json") else "csv"
    write(videos / f"train.{suffix}", *HEADED[kind])
    split = load_split(arguments(videos), "train")
    assert split.class_names == ["jump", "run"]
    assert split.clips == [
        Clip(str(videos / "a.mp4"), 1, 0.0, 2.5),
        Clip(str(videos / "b.mp4"), 0),
        Clip(str(videos / "c.mp4"), 1, 2.0, 3.0),
    ]


def test_columns_that_are_named(videos):
    write(videos / "train.csv", "clip,path,what,label", "a.mp4,no.mp4,x,1", "b.mp4,no.mp4,y,2")
    split = load_split(arguments(videos, video_column="clip", label_column="what"), "train")
    assert labels(split) == {"a.mp4": "x", "b.mp4": "y"}
    for option, name in (("video_column", "clips"), ("label_column", "whats")):
        with pytest.raises(DataError, match=f"has no column '{name}': set {option} to one of clip, path, what, label"):
            load_split(arguments(videos, **{option: name}), "train")


@pytest.mark.parametrize(
    "lines",
    [
        ["a.mp4,1", "b.mp4,0", "c.mp4,1"],
        ["a.mp4 1", "b.mp4\t0", "", "c.mp4  1"],
        ["a.mp4,a.npy,1", "b.mp4,b.npy,0", "c.mp4,,1"],
        ["a.mp4,take one,1,1", "b.mp4,take two,0,0", "c.mp4,take three,1,1"],
    ],
    ids=["comma", "space", "pose", "ego-exo"],
)
@pytest.mark.parametrize("place", ["train.csv", "annotations/train_manifest.txt", "labels/train_CS.txt"])
def test_tables_without_a_header(videos, lines, place):
    write(videos / place, *lines)
    split = load_split(arguments(videos), "train")
    assert labels(split) == {"a.mp4": "1", "b.mp4": "0", "c.mp4": "1"}
    assert split.class_names == ["0", "1"]


def test_paths_with_spaces_and_labels_that_are_names(tmp_path):
    touch(tmp_path, "my video.mp4", "b.mp4")
    write(tmp_path / "train.csv", "my video.mp4,open a door", "b.mp4,run")
    assert labels(load_split(arguments(tmp_path), "train")) == {"my video.mp4": "open a door", "b.mp4": "run"}
    write(tmp_path / "train.csv", "my video.mp4 run", "b.mp4 jump")
    assert labels(load_split(arguments(tmp_path), "train")) == {"my video.mp4": "run", "b.mp4": "jump"}


def test_byte_order_mark(videos):
    for lines in ("path,label\r\na.mp4,x\r\nb.mp4,y\r\n", "a.mp4,x\r\nb.mp4,y\r\n"):
        (videos / "train.csv").write_text("\ufeff" + lines, encoding="utf-8")
        assert labels(load_split(arguments(videos), "train")) == {"a.mp4": "x", "b.mp4": "y"}


def test_a_folder_of_images_in_a_table(tmp_path):
    touch(tmp_path, "clip1/2.png", "clip1/10.png", "clip2/1.png", "clip3/notes.txt")
    write(tmp_path / "train.csv", "clip1,0", "clip2,1", "clip3,1")
    split = load_split(arguments(tmp_path, on_error="skip"), "train")
    assert [Path(frame).name for frame in split.clips[0].frames] == ["2.png", "10.png"]
    assert split.missing == [str(tmp_path / "clip3")]


def test_tables_of_all_splits_and_their_aliases(videos):
    write(videos / "train.csv", "a.mp4,x", "b.mp4,y")
    write(videos / "annotations" / "validate.jsonl", '{"path": "c.mp4", "label": "y"}')
    write(videos / "annotations2" / "test.txt", "d.mp4 x")
    splits = load_all(arguments(videos))
    assert {name: labels(split) for name, split in splits.items()} == {
        "train": {"a.mp4": "x", "b.mp4": "y"},
        "validate": {"c.mp4": "y"},
        "test": {"d.mp4": "x"},
    }
    assert load_train_and_eval(arguments(videos), seed=0)[1] == load_split(arguments(videos), "val")
    write(videos / "annotations" / "train.txt", "a.mp4 x")
    with pytest.raises(DataError, match=r"two tables, 'train.csv' and 'annotations/train.txt': keep one"):
        load_split(arguments(videos), "train")


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_one_table_with_a_column_of_splits(videos, suffix):
    rows = [("a.mp4", 1, "train"), ("b.mp4", 2, "train"), ("c.mp4", 2, "Test"), ("d.mp4", 1, "val")]
    lines = ["path,label,split", *(",".join(map(str, row)) for row in rows)]
    if suffix == ".json":
        lines = [json.dumps([dict(zip(("path", "label", "split"), row, strict=True)) for row in rows])]
    table = write(videos / f"all{suffix}", *lines)
    train, evaluation = load_train_and_eval(arguments(table, label_base=1), seed=0)
    assert labels(train) == {"a.mp4": "1", "b.mp4": "2"} and [clip.label for clip in train.clips] == [0, 1]
    assert (evaluation.name, labels(evaluation)) == ("val", {"d.mp4": "1"})
    assert load_split(arguments(table, label_base=1), "test").name == "Test"


def test_one_table_without_splits(videos):
    table = write(videos / "all.csv", *(f"{name}.mp4,{number % 2}" for number, name in enumerate("abcdef")))
    train, held = load_train_and_eval(arguments(table, validation_fraction=0.34), seed=0)
    assert (len(train.clips), len(held.clips)) == (3, 3)
    write(videos / "all.csv", "path,label,split", "a.mp4,x,train", "b.mp4,y,")
    with pytest.raises(DataError, match="line 3 of 'all.csv' has no split"):
        load_split(arguments(table), "train")


KINETICS = ["label,youtube_id,time_start,time_end,split"]


@pytest.mark.parametrize("folder", ["{split}", "{split}/{label}", "{split}/{underscored}"])
def test_kinetics(tmp_path, folder):
    clips = [("opening door", "-ab_c", 3, 13), ("ski jumping", "xyz", 120, 130)]
    for table, split in (("train", "train"), ("val", "validate")):
        lines = [f"{label},{name},{start},{end},{split}" for label, name, start, end in clips]
        write(tmp_path / "annotations" / f"{table}.csv", *KINETICS, *lines)
        for label, name, start, end in clips:
            place = folder.format(split=table, label=label, underscored=label.replace(" ", "_"))
            touch(tmp_path / place, f"{name}_{start:06d}_{end:06d}.mp4")
    # labels of a test set are hidden, which matters where it is asked for only
    write(tmp_path / "annotations" / "test.csv", "youtube_id,time_start,time_end,split", "abc,1,11,test")
    train, evaluation = load_train_and_eval(arguments(tmp_path), seed=0)
    expected = {"-ab_c_000003_000013.mp4": "opening door", "xyz_000120_000130.mp4": "ski jumping"}
    assert labels(train) == labels(evaluation) == expected
    assert train.clips[0].start is None
    with pytest.raises(DataError, match="table 'test.csv' has no column that is clearly the label: set label_column"):
        load_split(arguments(tmp_path), "test")


def test_kinetics_in_one_table(tmp_path):
    touch(tmp_path / "videos", "train/a_000000_000010.mp4", "train/b_000000_000010.mp4", "val/c_000000_000010.mp4")
    table = write(tmp_path / "k400.csv", *KINETICS, "run,a,0,10,train", "jump,b,0,10,train", "run,c,0,10,val")
    given = arguments(table, video_root=str(tmp_path / "videos"))
    assert [len(split.clips) for split in load_train_and_eval(given, seed=0)] == [2, 1]
    write(tmp_path / "k400.csv", *KINETICS, "run,a,zero,10,train")
    with pytest.raises(DataError, match="line 2 of 'k400.csv' is no clip of Kinetics: 'a' from 'zero' to '10'"):
        load_train_and_eval(given, seed=0)


def test_all_of_kinetics_is_read_in_seconds(tmp_path, monkeypatch):
    lines = [f"class {number % 400},id{number},{number % 99},{number % 99 + 10},train" for number in range(240_000)]
    write(tmp_path / "train.csv", *KINETICS, *lines)
    monkeypatch.setattr(video_places.os.path, "exists", lambda path: True)
    started = time.process_time()
    split = load_split(arguments(tmp_path), "train")
    assert len(split.clips) == 240_000 and len(split.class_names) == 400
    assert time.process_time() - started < 20


@pytest.fixture
def frame_lists(tmp_path):
    """Something-Something v2 as for SlowFast: lists of frames, labels elsewhere."""
    for table, name, clips in (("train", "train", {"7": "Moving [something] up", "12": "Poking [a hole] into [it]"}),
                               ("val", "validation", {"9": "Poking [rice] into [it]"})):  # fmt: skip
        lines = ["original_vido_id video_id frame_id path labels"]
        for number, video in enumerate(clips):
            for frame in range(3):
                lines.append(f'{video} {number} {frame} {video}/{video}_{frame:04d}.jpg ""')
                touch(tmp_path / "frames", f"{video}/{video}_{frame:04d}.jpg")
        write(tmp_path / f"{table}.csv", *lines)
        rows = [{"id": video, "template": template, "label": "whatever"} for video, template in clips.items()]
        write(tmp_path / f"something-something-v2-{name}.json", json.dumps(rows).replace("rice", "a hole"))
    numbers = {"Poking a hole into it": "1", "Moving something up": "0", "Turning it": "2"}
    write(tmp_path / "something-something-v2-labels.json", json.dumps(numbers))
    return tmp_path


def test_frame_lists(frame_lists):
    train, evaluation = load_train_and_eval(arguments(frame_lists, video_root=str(frame_lists / "frames")), seed=0)
    assert train.class_names == ["Moving something up", "Poking a hole into it", "Turning it"]
    assert labels(train) == {"7": "Moving something up", "12": "Poking a hole into it"}
    assert labels(evaluation) == {"9": "Poking a hole into it"}
    assert [Path(frame).name for frame in train.clips[0].frames] == ["7_0000.jpg", "7_0001.jpg", "7_0002.jpg"]
    assert all(Path(frame).is_file() for frame in train.clips[0].frames)


def test_frame_lists_with_labels(frame_lists):
    lines = (frame_lists / "train.csv").read_text().replace('""', "2").replace("2\n", "0\n", 1).splitlines()
    (frame_lists / "something-something-v2-labels.json").unlink()
    write(frame_lists / "train.csv", *lines)
    given = arguments(frame_lists, video_root=str(frame_lists / "frames"), class_names=["x", "y", "z"])
    assert labels(load_split(given, "train")) == {"7": "x", "12": "z"}
    with pytest.raises(DataError, match="'val.csv' has no labels: put something-something-v2-labels.json"):
        load_train_and_eval(given, seed=0)
    write(frame_lists / "train.csv", lines[0], "7 0 0 7/7_0000.jpg 1,2")
    with pytest.raises(DataError, match="line 2 of 'train.csv' has the labels '1,2'"):
        load_split(given, "train")


def test_frames_that_do_not_exist(frame_lists):
    (frame_lists / "frames" / "7" / "7_0002.jpg").unlink()
    given = arguments(frame_lists, video_root=str(frame_lists / "frames"), on_error="skip")
    split = load_split(given, "train")
    assert (len(split.clips), split.missing) == (1, [str(frame_lists / "frames" / "7" / "7_0002.jpg")])


@pytest.mark.parametrize("base", [0, 1])
def test_numbered_labels_count_from_label_base(videos, base):
    write(videos / "train.csv", f"a.mp4,{base}", f"b.mp4,{base + 1}", f"c.mp4,{base + 2}")
    right, wrong = arguments(videos, label_base=base), arguments(videos, label_base=1 - base)
    split = load_split(right, "train")
    assert [clip.label for clip in split.clips] == [0, 1, 2]
    assert split.class_names == [str(base), str(base + 1), str(base + 2)]
    with pytest.raises(DataError, match="labels in 'train.csv' are not .* set label_base"):
        load_split(wrong, "train")
    right.class_names = wrong.class_names = ["x", "y", "z"]
    assert load_split(right, "train").class_names == ["x", "y", "z"]
    line, label, allowed = [(1, 0, "1..3"), (3, 3, "0..2")][base]
    message = f"line {line} of 'train.csv' has label {label}, outside the 3 classes ({allowed})"
    with pytest.raises(DataError, match=re.escape(message)):
        load_split(wrong, "train")


@pytest.mark.parametrize("name", ["kinetics_400_labels.csv", "kinetics400_labels.csv", "labels.csv"])
def test_class_names_beside_a_table(videos, name):
    write(videos / name, "id,name", "1,run", "0,jump", '2,"sing, loudly"')
    write(videos / "train.csv", "a.mp4,1", "b.mp4,0")
    assert load_split(arguments(videos), "train").class_names == ["jump", "run", "sing, loudly"]
    with pytest.raises(DataError, match=f"column 'id' of '{name}' is not 1..3: set label_base"):
        load_split(arguments(videos, label_base=1), "train")
    write(videos / name, "something,else", "1,run")
    assert load_split(arguments(videos), "train").class_names == ["0", "1"]
    write(videos / "train.csv", "a.mp4,zero", "b.mp4,one")
    assert load_split(arguments(videos), "train").class_names == ["one", "zero"]


def test_given_class_names_order_text_labels(videos):
    write(videos / "train.csv", "a.mp4,run", "b.mp4,jump")
    names = write(videos / "names.list", "run", "sing", "jump")
    split = load_split(arguments(videos, class_names=names), "train")
    assert split.class_names == ["run", "sing", "jump"] and [clip.label for clip in split.clips] == [0, 2]
    for given, message in ((["run", "sing"], "'jump', which class_names does not name"), (["run"] * 2, "two classes")):
        with pytest.raises(DataError, match=message):
            load_split(arguments(videos, class_names=given), "train")


def test_missing_files(videos):
    write(videos / "train.csv", "a.mp4,x", "b.mp4,y", "gone.mp4,x", "z/lost.mp4,y")
    gone = re.escape(str(videos / "gone.mp4"))
    with pytest.raises(
        DataError,
        match=f"2 of 4 videos of split 'train' do not exist, e.g. '{gone}' in line 3 of 'train.csv': set video_root",
    ):
        load_split(arguments(videos), "train")
    split = load_split(arguments(videos, on_error="skip"), "train")
    assert len(split.clips) == 2 and split.missing == [str(videos / "gone.mp4"), str(videos / "z" / "lost.mp4")]
    assert load_all(arguments(videos))["train"] == split
    (videos / "elsewhere").mkdir()
    with pytest.raises(DataError, match="4 of 4 videos of split 'train' do not exist"):
        load_split(arguments(videos, on_error="skip", video_root=str(videos / "elsewhere")), "train")
    with pytest.raises(DataError, match="video_root '/nowhere' is no folder"):
        load_split(arguments(videos, video_root="/nowhere"), "train")


def test_absolute_paths_and_video_root(videos, tmp_path_factory):
    other = tmp_path_factory.mktemp("tables")
    table = write(other / "table.csv", f"{videos / 'a.mp4'},x", "./b.mp4,y")
    split = load_split(arguments(table, video_root=str(videos)), "train")
    assert [clip.path for clip in split.clips] == [str(videos / "a.mp4"), str(videos / "b.mp4")]


def test_one_clip_of_two_classes_is_refused(videos):
    write(videos / "train.csv", "path,label,start,end", "a.mp4,x,0,1", "a.mp4,y,1,2", "a.mp4,x,0,1", "./a.mp4,y,0,1")
    with pytest.raises(DataError, match=r"line 5 of 'train.csv' says that './a.mp4' is 'y', but .* 'x': keep one"):
        load_split(arguments(videos), "train")


def test_a_clip_of_both_splits_is_warned_of(videos, monkeypatch):
    write(videos / "train.csv", "a.mp4,x", "b.mp4,y", "c.mp4,x")
    write(videos / "val.csv", "a.mp4,x", "b.mp4,y", "d.mp4,x")
    warnings = []
    monkeypatch.setattr(video_sources.logger, "warning", warnings.append)
    load_train_and_eval(arguments(videos), seed=0)
    assert len(warnings) == 1 and "2 clips are in both splits, 'train' and 'val'" in warnings[0]


@pytest.mark.parametrize("labelled", [("x", "y", "z"), (0, 1, 2)], ids=["names", "numbers"])
def test_a_class_of_the_evaluation_split_only_is_refused(videos, labelled):
    first, second, third = labelled
    write(videos / "train.csv", f"a.mp4,{first}", f"b.mp4,{second}")
    write(videos / "val.csv", f"c.mp4,{first}", f"d.mp4,{third}")
    with pytest.raises(DataError, match="'val' has videos of class 'z'|line 2 of 'val.csv' has label 2"):
        load_train_and_eval(arguments(videos), seed=0)
    names = ["x", "y", "z"]
    with pytest.raises(DataError, match="'val' has videos of class 'z', but split 'train' has none"):
        load_train_and_eval(arguments(videos, class_names=names), seed=0)
    assert load_split(arguments(videos, class_names=names), "val").class_names == names


def test_numbers_and_names_do_not_mix(videos):
    write(videos / "train.csv", "a.mp4,0", "b.mp4,1")
    write(videos / "val.csv", "c.mp4,zero")
    with pytest.raises(DataError, match="line 1 of 'val.csv' has label 'zero', but split 'train' numbers its classes"):
        load_train_and_eval(arguments(videos), seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.csv", "", "'train.csv' has no rows"),
        ("train.csv", "path,label\n", "'train.csv' has no rows"),
        ("train.csv", "path,label\na.mp4\n", "line 2 of 'train.csv' has 1 fields, the header 2"),
        ("train.csv", "path,label\na.mp4,\n", "'train.csv' has no labels: its column 'label' is empty"),
        ("train.csv", "path,label\na.mp4,\nb.mp4,x", "line 2 of 'train.csv' has no label"),
        ("train.csv", "path,label\n,x\n", "line 2 of 'train.csv' names no video"),
        ("train.csv", "path,label,start,end\na.mp4,x,soon,3\n", "line 2 of 'train.csv' has 'soon' in 'start'"),
        ("train.csv", "path,label,start,end\na.mp4,x,3,2\n", "line 2 of 'train.csv' ends at 2.0 seconds"),
        ("train.csv", "path,size\na.mp4,3\n", "no column that is clearly the label: set label_column to one of path"),
        ("train.csv", "clip,label\na.mp4,3\n", "no column that is clearly the video: set video_column to one of clip"),
        ("train.csv", "clip,kind\na.mp4,3\n", "no column that is clearly the video"),
        ("train.csv", "a.mp4\nb.mp4\n", "line 1 of 'train.csv' is no video and label"),
        ("train.csv", "a.mp4,1\nb.mp4,2,3\n", "line 2 of 'train.csv' is no video and label"),
        ("train.csv", "a.mp4,b,c,d,1\n", "line 1 of 'train.csv' is no video and label"),
        ("train.csv", "a.mp4,x\nb.mp4,x\n", "'train.csv' has videos of one class only (x)"),
        ("train.csv", b"\x89PNG\r\n\x00\x00", "'train.csv' is no text"),
        ("train.csv", b"\xfa,1\n", "'train.csv' is no text in UTF-8"),
        ("train.json", b"\xfa,1\n", "'train.json' is no text in UTF-8"),
        (
            "train.jsonl",
            '{"path": "a.mp4", "label": 1}\n{"path": "b.mp4", "lab\n',
            "line 2 of 'train.jsonl' is no JSON",
        ),
        ("train.jsonl", '{"path": "a.mp4", "label": 1}\n{"path": "b.mp4"}\n', "line 2 of 'train.jsonl' has no label"),
        ("train.jsonl", '{"path": "a.mp4", "label": 1.5}\n', "line 1 of 'train.jsonl' has no label"),
        ("train.jsonl", '{"path": 3, "label": 1}\n', "line 1 of 'train.jsonl' names no video"),
        ("train.json", '[{"path": "a.mp4",\n "label": 1},\n {"path": ]', "'train.json' is no JSON: .* line 3"),
        ("train.json", "[1, 2]", "row 1 of 'train.json' is no JSON object"),
        ("train.json", '{"a.mp4": "x", "b.mp4": "y"}', "no column that is clearly the video"),
    ],
)
def test_broken_tables_are_named(videos, name, content, message):
    (videos / name).write_bytes(content.encode() if isinstance(content, str) else content)
    message = message if ".*" in message else re.escape(message)
    for dataset in (videos, videos / name):
        with pytest.raises(DataError, match=message):
            load_train_and_eval(arguments(dataset), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "./nowhere"}, "data set './nowhere' does not exist"),
        ({"dataset": "/nowhere/at/all"}, "data set '/nowhere/at/all' does not exist"),
        ({"dataset": ""}, "data set '' does not exist"),
        ({"dataset": "nobody/videos"}, "hf download nobody/videos --repo-type dataset"),
        ({"dataset": "nobody/videos", "protocol": "ntu60-xsub"}, "hf download nobody/videos"),
        ({"dataset": "moving-fashion-mnist", "protocol": "ntu60-xsub"}, "set dataset to it"),
        ({"dataset": "{}/notes.pdf"}, "is a file but no table (.csv, .tsv, .txt, .jsonl, .json)"),
        ({"train_split": "trian"}, "has no split 'trian': it has train, val"),
        ({"eval_split": "dev"}, "has no split 'dev': it has train, val"),
        ({"class_names": "nowhere.txt"}, "cannot read class_names from 'nowhere.txt'"),
        ({"class_names": ["run", "jump"]}, "is of class 'höher springen', which class_names does not name"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_wrong_arguments_are_named(class_folders, options, message):
    options = {name: value.format(class_folders) if name == "dataset" else value for name, value in options.items()}
    with pytest.raises(DataError, match=re.escape(message)):
        load_train_and_eval(VideoDataArguments(**{"dataset": str(class_folders), **options}), seed=0)


def test_folders_that_are_no_data_set_are_refused(class_folders, tmp_path):
    (class_folders / "train" / "run").rename(class_folders / "val" / "walk")
    with pytest.raises(DataError, match="videos of one class only"):
        load_train_and_eval(arguments(class_folders), seed=0)
    touch(class_folders, "train/run/x.mp4")
    with pytest.raises(DataError, match="'val' has videos of class 'walk', but split 'train' has none"):
        load_train_and_eval(arguments(class_folders), seed=0)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match="nothing' has no videos"):
        load_train_and_eval(arguments(tmp_path / "nothing"), seed=0)
    with pytest.raises(DataError, match="has no class folders, but videos"):
        load_train_and_eval(arguments(class_folders / "val" / "höher springen"), seed=0)
    with pytest.raises(DataError, match="has no split 'test'"):
        load_split(arguments(class_folders), "test")


def test_too_few_videos_to_hold_some_out(videos):
    write(videos / "train.csv", "a.mp4,x", "b.mp4,y")
    with pytest.raises(DataError, match="no part of split .train. can be held out"):
        load_train_and_eval(arguments(videos), seed=0)
    with pytest.raises(DataError, match="has no evaluation split: set eval_split"):
        load_train_and_eval(arguments(videos, validation_fraction=0), seed=0)
