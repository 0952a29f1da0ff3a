"""Choosing frames of videos and decoding them: the right ones, or an error that says why not."""

import io
import os
import time
from pathlib import Path

import numpy as np
import pytest

from dna_hf.models.video_decoding import FrameSampling, VideoDecodingError, decode_video
from tests.kit.paths import SHARED, shared_path
from tests.kit.videos import (
    copy_packets,
    decode_everything,
    needs_encoder,
    numbered,
    numbers_of,
    turn,
    write_sound,
    write_video,
)


# how videos are decoded, and what is in other people's files, does not depend on transformers
pytestmark = pytest.mark.once


FRAMES = 60
H264 = {"options": {"g": "12", "bf": "2", "preset": "ultrafast", "sc_threshold": "0"}}
MPEG4 = {"codec": "mpeg4", "options": {"g": "12", "qmax": "5"}}
VPX = {"options": {"g": "12", "deadline": "realtime", "cpu-used": "8", "b": "500000"}}
FILES = {
    "h264.mp4": H264,
    "faststart.mp4": H264 | {"movflags": "faststart"},
    "fragments.mp4": H264 | {"movflags": "frag_keyframe+empty_moov"},
    "sound.mov": H264 | {"audio": True},
    "h264.mkv": H264,
    "h264.ts": H264,
    "h264.avi": H264,
    "mpeg4.avi": MPEG4,
    "b_frames.avi": MPEG4 | {"options": {"g": "12", "qmax": "5", "bf": "2"}},
    "mpeg4.mkv": MPEG4,
    "vp8.webm": VPX | {"codec": "libvpx"},
    "vp9.webm": VPX | {"codec": "libvpx-vp9"},
}
CLIPS = sorted(
    path.name for path in SHARED.joinpath("data", "action-clips").glob("*") if path.suffix in (".mp4", ".avi", ".mkv")
)


def every_frame(total, rate):
    return list(range(total))


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Of a name, the whole file of 60 frames; made once."""
    folder = tmp_path_factory.mktemp("videos")

    def make(name):
        path = folder / name
        return path if path.exists() else write_video(path, FRAMES, **FILES[name])

    return make


def decode_or_refuse(path, choose=every_frame):
    """Decode; `None` if the file is refused as it should be, with one sentence and soon."""
    started = time.monotonic()
    try:
        frames, indices = decode_video(str(path), choose)
    except VideoDecodingError as error:
        text = str(error)
        assert text and "\n" not in text and not text.endswith(".") and not text[0].isupper(), text
        assert ". " not in text, text
        return None
    finally:
        assert time.monotonic() - started < 60
    return frames, indices


# --- broken files


@pytest.mark.parametrize("part", [k / 15 for k in range(15)], ids="{:.2f}".format)
@pytest.mark.parametrize("name", FILES)
def test_truncated_files_give_right_frames_or_are_refused(whole, tmp_path, name, part):
    data = whole(name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: int(len(data) * part)])
    result = decode_or_refuse(path)
    if result is not None:
        frames, indices = result
        numbers = numbers_of(frames)
        # the frame after those that are missing may be there
        assert indices == list(range(len(indices))) == [*numbers[:-1], len(numbers) - 1]
        assert len(numbers) - 1 <= numbers[-1] <= len(numbers) + 1
        # Matroska tells how long it lasts, with a second that may be missing, and some tell nothing
        missing = FRAMES if name in ("fragments.mp4", "h264.ts") else 34 if path.suffix in (".mkv", ".webm") else 4
        assert len(indices) >= FRAMES - missing


@pytest.mark.parametrize("cut", [1, 16, 200])
@pytest.mark.parametrize("name", FILES)
def test_files_that_lack_their_end(whole, tmp_path, name, cut):
    path = tmp_path / name
    path.write_bytes(whole(name).read_bytes()[:-cut])
    result = decode_or_refuse(path, FrameSampling("uniform", 4))
    assert result is None or numbers_of(result[0]) == result[1]


@pytest.mark.parametrize("kind", ["zeros", "noise", "missing"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_raise_nothing_else(whole, tmp_path, name, place, kind):
    data = bytearray(whole(name).read_bytes())
    start, size = int(len(data) * place), 64
    noise = np.random.default_rng(0).bytes(size)
    data[start : start + size] = {"zeros": bytes(size), "noise": noise, "missing": b""}[kind]
    path = tmp_path / name
    path.write_bytes(data)
    # codecs do not check what they decode: its contents are not promised
    result = decode_or_refuse(path)
    assert result is None or result[0].dtype == np.uint8


@pytest.mark.parametrize(
    "content",
    [b"", b"not a video\n" * 100, bytes(5000), b"\x00\x00\x00\x18ftypmp42"],
    ids=["empty", "text", "zeros", "start"],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.mkv", "a"])
def test_what_is_no_video_is_refused(tmp_path, name, content):
    pytest.importorskip("av")
    path = tmp_path / name
    path.write_bytes(content)
    assert decode_or_refuse(path) is None
    with pytest.raises(VideoDecodingError):
        decode_video(io.BytesIO(content), every_frame)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    pytest.importorskip("av")
    with pytest.raises(VideoDecodingError, match="no such file"):
        decode_video(str(tmp_path / "missing.mp4"), every_frame)
    assert decode_or_refuse(tmp_path) is None


def test_sound_alone_is_refused(tmp_path):
    path = write_sound(tmp_path / "sound.mp4")
    with pytest.raises(VideoDecodingError, match="only sound"):
        decode_video(str(path), every_frame)


@pytest.mark.parametrize(("announced", "fine"), [(FRAMES, True), (FRAMES + 2, True), (FRAMES + 20, False)])
def test_a_header_may_announce_a_frame_or_two_too_many(whole, tmp_path, announced, fine):
    data = bytearray(whole("mpeg4.avi").read_bytes())
    for chunk, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        place = data.index(chunk) + offset
        assert int.from_bytes(data[place : place + 4], "little") == FRAMES
        data[place : place + 4] = announced.to_bytes(4, "little")
    path = tmp_path / "a.avi"
    path.write_bytes(data)
    result = decode_or_refuse(path)
    assert (result is not None) == fine
    assert not fine or numbers_of(result[0]) == list(range(FRAMES))


# --- whole files


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_the_one_with_its_number(whole, name):
    path = whole(name)
    everything = decode_everything(path)
    frames, indices = decode_video(str(path), every_frame)
    assert indices == numbers_of(frames) == list(range(FRAMES))
    assert frames.dtype == np.uint8 and np.array_equal(frames, everything)
    for index in range(0, FRAMES, 7):
        frame, _ = decode_video(str(path), lambda total, rate, index=index: [index])
        assert np.array_equal(frame[0], everything[index]), index
    # in any order, more than once
    frames, indices = decode_video(str(path), lambda total, rate: [59, 3, 3, 40, 0])
    assert indices == numbers_of(frames) == [59, 3, 3, 40, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"x264-params": "keyint=10:open-gop=1:bframes=3:b-adapt=0:scenecut=0"},
        {"x264-params": "keyint=2:bframes=1:b-adapt=0:scenecut=0"},
        {"x264-params": "keyint=1"},
        {"x264-params": "keyint=10:intra-refresh=1"},
        {"x264-params": "keyint=250:bframes=8:b-adapt=0:b-pyramid=normal:scenecut=0"},
    ],
    ids=["open", "two", "one", "refresh", "one key frame"],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_frames_are_exact_whatever_the_key_frames(tmp_path, name, options):
    path = write_video(tmp_path / name, 40, options=options)
    everything = decode_everything(path)
    assert numbers_of(everything) == list(range(40))
    for index in range(40):
        frame, _ = decode_video(str(path), lambda total, rate, index=index: [index])
        assert np.array_equal(frame[0], everything[index]), index
    frames, _ = decode_video(str(path), lambda total, rate: list(range(0, 40, 9)))
    assert np.array_equal(frames, everything[::9])


def test_hevc_with_open_groups(tmp_path):
    path = write_video(
        tmp_path / "a.mp4", 40, codec="libx265", options={"x265-params": "log-level=none:keyint=8:open-gop=1"}
    )
    everything = decode_everything(path)
    for index in range(40):
        frame, _ = decode_video(str(path), lambda total, rate, index=index: [index])
        assert np.array_equal(frame[0], everything[index]), index


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_videos_of_few_frames(tmp_path, name, count):
    path = write_video(tmp_path / name, count)
    frames, indices = decode_video(str(path), FrameSampling("uniform", 8))
    assert indices == numbers_of(frames) == [int(count * (k + 0.5) / 8) for k in range(8)]
    frames, indices = decode_video(str(path), FrameSampling("released", 8))
    assert numbers_of(frames) == indices and indices[-1] == count - 1


@pytest.mark.parametrize(
    ("name", "options"),
    {
        "a.mp4": {"pixel_format": "yuv444p"},
        "b.mkv": {"codec": "ffv1", "pixel_format": "bgr0"},
        "c.avi": MPEG4,
        "d.webm": VPX | {"codec": "libvpx"},
        "e.mp4": {"pixel_format": "yuv444p10le"},
    }.items(),
)
def test_odd_sizes_and_depths(tmp_path, name, options):
    source = [numbered(k, 33, 47) for k in range(10)]
    path = write_video(tmp_path / name, source, **options)
    frames, indices = decode_video(str(path), every_frame)
    assert frames.shape == (10, 33, 47, 3) and numbers_of(frames) == indices
    if options.get("codec") == "ffv1":
        assert np.array_equal(frames, source)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_variable_frame_rate(tmp_path, name):
    shown = [k * k for k in range(40)]
    path = write_video(tmp_path / name, 40, pts=shown)
    rates = []
    frames, indices = decode_video(str(path), lambda total, rate: rates.append(rate) or every_frame(total, rate))
    assert numbers_of(frames) == indices == list(range(40))
    assert rates[0] == pytest.approx(39 / shown[-1] * 1000, rel=0.01)
    frames, indices = decode_video(str(path), every_frame, start=0.4, end=0.9)
    assert numbers_of(frames) == [k for k in range(40) if 400 <= shown[k] < 900]
    assert indices == list(range(len(frames)))


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "mpeg4.avi", "h264.ts"])
@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, (0, 60)),
        (0, None, (0, 60)),
        (0.99, None, (30, 60)),
        (None, 0.49, (0, 15)),
        (0.49, 1.01, (15, 31)),
        (1.95, 100, (59, 60)),
        (-5, 0.05, (0, 2)),
    ],
)
def test_time_ranges(whole, name, start, end, expected):
    frames, indices = decode_video(str(whole(name)), every_frame, start=start, end=end)
    assert numbers_of(frames) == list(range(*expected)) and indices == list(range(len(frames)))


@pytest.mark.parametrize(("start", "end"), [(5, None), (None, 0), (1, 1), (1.5, 1), (None, -1)])
def test_time_ranges_without_frames_are_refused(whole, start, end):
    with pytest.raises(VideoDecodingError, match="no frame from"):
        decode_video(str(whole("h264.mp4")), every_frame, start=start, end=end)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_are_turned_as_the_file_says(tmp_path, degrees):
    plain, _ = decode_video(str(write_video(tmp_path / "plain.mp4", 3)), every_frame)
    path = turn(write_video(tmp_path / "turned.mp4", 3), degrees)
    frames, _ = decode_video(str(path), every_frame)
    # numpy turns the other way round
    assert np.array_equal(frames, np.rot90(plain, -degrees // 90, (1, 2)))
    assert frames.flags["C_CONTIGUOUS"]


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "mpeg4.avi", "vp8.webm"])
def test_file_like_objects_from_wherever_they_stand(whole, name):
    data = io.BytesIO(whole(name).read_bytes())
    data.seek(77)
    for _ in range(2):
        frames, indices = decode_video(data, FrameSampling("uniform", 8))
        assert numbers_of(frames) == indices == [3, 11, 18, 26, 33, 41, 48, 56]


def test_frames_before_a_cut_are_not_counted(whole, tmp_path):
    # as `ffmpeg -ss 1 -c copy` leaves a file: from the key frame on, with a list that says what to show
    path = copy_packets(whole("h264.mp4"), tmp_path / "cut.mp4", keep=lambda index: index >= 24, shift=15360)
    everything = numbers_of(decode_everything(path))
    assert everything == list(range(30, 60))
    frames, indices = decode_video(str(path), every_frame)
    assert numbers_of(frames) == everything and indices == list(range(30))
    for index in (0, 3, 17, 29):
        frames, _ = decode_video(str(path), lambda total, rate, index=index: [index])
        assert numbers_of(frames) == [30 + index]
    frames, _ = decode_video(str(path), every_frame, end=0.3)
    assert numbers_of(frames) == list(range(30, 39))


def test_a_truncated_file_with_a_cut_is_refused(whole, tmp_path):
    source = copy_packets(whole("h264.mp4"), tmp_path / "a.mp4", shift=15360)
    data = source.read_bytes()
    # the header lies behind
    start = data.index(b"mdat") - 4
    size = int.from_bytes(data[start : start + 4], "big")
    path = tmp_path / "cut.mp4"
    path.write_bytes(data[: start + size // 2])
    assert decode_or_refuse(path) is None


@pytest.mark.parametrize(("source", "name"), [("h264.mp4", "a.mkv"), ("h264.mp4", "a.ts"), ("mpeg4.avi", "a.mkv")])
def test_counting_begins_at_the_first_key_frame(whole, tmp_path, source, name):
    path = copy_packets(whole(source), tmp_path / name, keep=lambda index: index > 0)
    first = 12
    result = decode_or_refuse(path)
    assert result is None or numbers_of(result[0]) == list(range(first, FRAMES))
    result = decode_or_refuse(path, lambda total, rate: [2, 5])
    assert result is None or numbers_of(result[0]) == [first + 2, first + 5]


def test_decoding_needs_pyav(monkeypatch):
    monkeypatch.setattr("dna_hf.models.video_decoding.av", None)
    with pytest.raises(ImportError, match="pip install av"):
        decode_video("a.mp4", every_frame)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_stays_flat(tmp_path):
    path = str(write_video(tmp_path / "a.mp4", [numbered(k, 240, 320) for k in range(8)], options=H264["options"]))
    for _ in range(50):
        decode_video(path, FrameSampling("uniform", 8))
    before = resident_bytes()
    for _ in range(500):
        decode_video(path, FrameSampling("uniform", 8))
    # one leaked frame per video would be 110 MB
    assert resident_bytes() - before < 40 * 2**20


# --- real clips


def test_the_real_clips_are_there():
    shared_path("data", "action-clips")
    assert len(CLIPS) == 19


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_decode_as_by_pyav_alone(name):
    path = shared_path("data", "action-clips", name)
    needs_encoder("mpeg4")
    frames, indices = decode_video(str(path), FrameSampling("uniform", 16))
    assert len(indices) == 16 and indices == sorted(indices)
    everything = decode_everything(path, set(indices))
    assert all(np.array_equal(frame, everything[index]) for frame, index in zip(frames, indices, strict=True))
    again, same = decode_video(str(path), FrameSampling("uniform", 16))
    assert same == indices and np.array_equal(again, frames)


# --- choosing frames


@pytest.mark.parametrize(
    ("total", "rate", "options", "expected"),
    [
        (84, 30, {}, [0, 36, 72, 83, 83, 83, 83, 83]),
        (120, 30, {}, [0, 36, 72, 109, 119, 119, 119, 119]),
        (256, 30, {}, [0, 36, 72, 109, 145, 182, 218, 255]),
        (1, 30, {}, [0] * 8),
        # a window of 128 frames
        (120, 15, {}, [0, 18, 36, 54, 72, 90, 108, 119]),
        (356, 30, {"draws": (0.5,)}, [50, 86, 122, 159, 195, 232, 268, 305]),
        (356, 30, {"clip": 1, "num_clips": 2}, [50, 86, 122, 159, 195, 232, 268, 305]),
        (356, 30, {"draws": (0.9999,)}, [100, 136, 172, 209, 245, 282, 318, 355]),
        (500, 30, {"clip": 0, "num_clips": 1}, [0, 36, 72, 109, 145, 182, 218, 255]),
    ],
)
def test_released_sampling(total, rate, options, expected):
    assert FrameSampling("released", 8, 32, **options)(total, rate) == expected


@pytest.mark.parametrize(
    ("total", "count", "options", "expected"),
    [
        (8, 8, {}, [0, 1, 2, 3, 4, 5, 6, 7]),
        (80, 8, {}, [5, 15, 25, 35, 45, 55, 65, 75]),
        (3, 8, {}, [0, 0, 0, 1, 1, 2, 2, 2]),
        (1, 4, {}, [0, 0, 0, 0]),
        (80, 4, {"draws": (0.0,) * 4}, [0, 20, 40, 60]),
        (80, 4, {"draws": (0.999,) * 4}, [19, 39, 59, 79]),
        (80, 4, {"clip": 0, "num_clips": 2}, [5, 25, 45, 65]),
        (80, 4, {"clip": 1, "num_clips": 2}, [15, 35, 55, 75]),
    ],
)
def test_uniform_sampling(total, count, options, expected):
    assert FrameSampling("uniform", count, **options)(total, 30) == expected


@pytest.mark.parametrize("count", [1, 5, 8, 32])
def test_as_many_frames_as_there_are_is_all_of_them(count):
    for kind in ("uniform", "centered"):
        assert FrameSampling(kind, count, 1)(count, 30) == list(range(count))
    assert FrameSampling("released", count, 1)(count, 30) == list(range(count))


@pytest.mark.parametrize(
    ("total", "options", "expected"),
    [
        # a window of 40 frames
        (100, {}, [35, 45, 55, 65]),
        (100, {"clip": 0, "num_clips": 2}, [20, 30, 40, 50]),
        (100, {"clip": 1, "num_clips": 2}, [50, 60, 70, 80]),
        (20, {}, [2, 7, 12, 17]),
        (2, {}, [0, 0, 1, 1]),
    ],
)
def test_centered_sampling(total, options, expected):
    assert FrameSampling("centered", 4, 10, **options)(total, 30) == expected


@pytest.mark.parametrize(
    ("draw", "expected"), [(0.0, [5, 15, 25, 35]), (0.5, [35, 45, 55, 65]), (0.999, [64, 74, 84, 94])]
)
def test_random_sampling(draw, expected):
    assert FrameSampling("random", 4, 10, draws=(draw,))(100, 30) == expected


@pytest.mark.parametrize("kind", ["uniform", "centered", "random", "released"])
@pytest.mark.parametrize("rate", [1, 12.5, 29.97, 60, 1000])
def test_every_sampling_stays_within_the_video_and_in_order(kind, rate):
    for total in [*range(1, 20), 84, 1000]:
        for count in (1, 2, 8):
            for draw in (0.0, 0.5, 0.999, 1 - 2**-53):
                indices = FrameSampling(kind, count, 32, draws=(draw,) * count)(total, rate)
                assert len(indices) == count and indices == sorted(indices)
                assert indices[0] >= 0 and indices[-1] < total


def test_views_over_time_advance():
    for kind in ("uniform", "centered", "released"):
        views = [FrameSampling(kind, 8, 4, clip, 5)(300, 30) for clip in range(5)]
        assert len({tuple(view) for view in views}) == 5
        assert all(
            a <= b for one, other in zip(views, views[1:], strict=False) for a, b in zip(one, other, strict=True)
        )


def test_impossible_samplings_are_refused():
    with pytest.raises(ValueError, match="unknown sampling 'dense': choose one of uniform, centered"):
        FrameSampling("dense", 8)
    with pytest.raises(ValueError, match="needs a random number"):
        FrameSampling("random", 8)
