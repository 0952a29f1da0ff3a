"""The protocols of Toyota Smarthome and NTU RGB+D 60, on lists of names of the real size and shape."""

import itertools
import random

import pytest

from dna_hf.data.errors import DataError
from dna_hf.data.video_protocols import PROTOCOLS, divide, find_videos


NTU_TRAIN_SUBJECTS = [1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38]
SMARTHOME_SUBJECTS = [2, 3, 4, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 25]


@pytest.fixture(scope="module")
def ntu_names():
    """56,880 names: 60 actions, 3 cameras, twice each, of 158 pairs of setup and subject, 112 of them trained on."""
    subjects = {True: NTU_TRAIN_SUBJECTS, False: [p for p in range(1, 41) if p not in NTU_TRAIN_SUBJECTS]}
    generator = random.Random(0)
    pairs = []
    for trained, count in ((True, 112), (False, 46)):
        pairs += generator.sample(list(itertools.product(range(1, 18), subjects[trained])), count)
    return [
        f"nturgb+d_rgb/S{setup:03d}C{camera:03d}P{subject:03d}R{repetition:03d}A{action:03d}_rgb.avi"
        for setup, subject in pairs
        for camera, repetition, action in itertools.product((1, 2, 3), (1, 2), range(1, 61))
    ]


def test_ntu_has_the_published_sizes(ntu_names):
    assert len(ntu_names) == 56_880
    for protocol, train, test in (("ntu60-xsub", 40_320, 16_560), ("ntu60-xview", 37_920, 18_960)):
        splits = divide(ntu_names, protocol)
        assert {split: len(clips) for split, clips in splits.clips.items()} == {"train": train, "test": test}
        assert not (splits.unknown or splits.unassigned or splits.other_classes or splits.missing)
        counts = splits.counts()
        assert set(counts["train"].values()) == {train // 60} and set(counts["test"].values()) == {test // 60}


def test_ntu_splits_share_no_subject_and_no_camera(ntu_names):
    for protocol, letter in (("ntu60-xsub", "P"), ("ntu60-xview", "C")):
        clips = divide(ntu_names, protocol).clips
        groups = [{path[path.rindex(letter) + 1 : path.rindex(letter) + 4] for path, _ in c} for c in clips.values()]
        assert not groups[0] & groups[1]


def test_ntu_labels_count_from_one_in_names():
    clips = divide(["S001C002P001R001A001_rgb.avi", "S001C002P001R001A060_rgb.avi"], "ntu60-xview").clips["train"]
    assert [label for _, label in clips] == [0, 59]
    assert len(set(PROTOCOLS["ntu60-xsub"].class_names)) == 60


@pytest.fixture(scope="module")
def smarthome_names():
    """About 16 thousand names of 31 activities, 18 subjects and 7 cameras."""
    generator = random.Random(1)
    activities = PROTOCOLS["smarthome-cs"].class_names
    names = set()
    while len(names) < 16_115:
        activity, subject = generator.choice(activities), generator.choice(SMARTHOME_SUBJECTS)
        repetition, version, camera = generator.randrange(30), generator.randrange(20), generator.randint(1, 7)
        names.add(f"{activity}_p{subject:02d}_r{repetition:02d}_v{version:02d}_c{camera:02d}.mp4")
    return sorted(names)


def fields(path):
    activity, subject, _, _, camera = path.removesuffix(".mp4").split("_")
    return activity, int(subject[1:]), int(camera[1:])


def test_smarthome_cross_subject(smarthome_names):
    splits = divide(smarthome_names, "smarthome-cs")
    trained = {3, 4, 6, 7, 9, 12, 13, 15, 17, 19, 25}
    assert sum(map(len, splits.clips.values())) == len(smarthome_names)
    assert {fields(path)[1] for path, _ in splits.clips["train"]} == trained
    assert {fields(path)[1] for path, _ in splits.clips["test"]} == set(SMARTHOME_SUBJECTS) - trained
    names = splits.protocol.class_names
    assert len(names) == 31 and list(names) == sorted(names, key=str.lower)
    assert all(names[label] == fields(path)[0] for clips in splits.clips.values() for path, label in clips)


@pytest.mark.parametrize(("protocol", "trained"), [("smarthome-cv1", {1}), ("smarthome-cv2", {1, 3, 4, 6, 7})])
def test_smarthome_cross_view(smarthome_names, protocol, trained):
    splits = divide(smarthome_names, protocol)
    cameras = {split: {fields(path)[2] for path, _ in clips} for split, clips in splits.clips.items()}
    assert cameras == {"train": trained, "validation": {5}, "test": {2}}
    names = splits.protocol.class_names
    assert len(names) == 19 and set(names) < set(PROTOCOLS["smarthome-cs"].class_names)
    left_out = {fields(path)[0] for path in splits.other_classes}
    assert left_out == set(PROTOCOLS["smarthome-cs"].class_names) - set(names)
    everything = sum(map(len, splits.clips.values())) + len(splits.other_classes) + len(splits.unassigned)
    assert everything == len(smarthome_names)


def test_what_is_in_no_split_is_told():
    names = [
        "Walk_p03_r00_v01_c01.mp4",
        "Walk_p99_r00_v01_c01.mp4",
        "Fly_p03_r00_v01_c01.mp4",
        "holiday.mp4",
    ]
    expected = ["Walk_p03_r00_v01_c01", "Enter_p03_r00_v01_c01"]
    splits = divide(names, "smarthome-cs", expected=expected)
    assert splits.clips == {"train": [("Walk_p03_r00_v01_c01.mp4", 29)], "test": []}
    assert splits.unassigned == ["Walk_p99_r00_v01_c01.mp4"]
    assert splits.other_classes == {"Fly_p03_r00_v01_c01.mp4": "Fly"}
    assert splits.unknown == ["holiday.mp4"]
    assert splits.missing == ["Enter_p03_r00_v01_c01"]
    assert splits.counts()["train"]["Walk"] == 1 and splits.counts()["test"]["Walk"] == 0


def test_the_order_of_the_files_does_not_matter(smarthome_names):
    shuffled = random.Random(2).sample(smarthome_names, len(smarthome_names))
    assert divide(shuffled, "smarthome-cs").clips == divide(smarthome_names, "smarthome-cs").clips


@pytest.mark.parametrize(
    ("paths", "protocol", "message"),
    [
        (["Walk_p03_r00_v01_c01.mp4"], "smarthome", "unknown protocol 'smarthome': choose one of smarthome-cs"),
        (["Walk_p03_r00_v01_c01.mp4"], "ntu60-xsub", "no file name is one of ntu60-xsub"),
        ([], "ntu60-xsub", "no file name is one of ntu60-xsub"),
        (["a/Walk_p03_r00_v01_c01.mp4", "b/Walk_p03_r00_v01_c01.mp4"], "smarthome-cs", "two files are the clip"),
    ],
)
def test_wrong_folders_are_told(paths, protocol, message):
    with pytest.raises(DataError, match=message):
        divide(paths, protocol)


def test_videos_are_found_in_subfolders(tmp_path):
    for name in ("b/x.MP4", "a/y.avi", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_videos(tmp_path) == [str(tmp_path / "a" / "y.avi"), str(tmp_path / "b" / "x.MP4")]
    with pytest.raises(DataError, match="has no videos"):
        (tmp_path / "empty").mkdir()
        find_videos(tmp_path / "empty")
    with pytest.raises(DataError, match="there is no folder"):
        find_videos(tmp_path / "nowhere")
