"""Clips become tensors; clips that cannot be read end the run or are left out, and are listed."""

import os
import shutil
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from dna_hf.data.arguments import VideoDataArguments
from dna_hf.data.clips import Clip, LabelledVideos
from dna_hf.data.errors import DataError
from dna_hf.data.motion import NUM_POSITIONS, motion_splits
from dna_hf.data.unreadable import UNREADABLE, read_bad_list
from dna_hf.data.videos import (
    VideoAugmentation,
    VideoDataset,
    VideoReader,
    output_size,
    split_views,
    video_processor,
    view_processor,
    with_given,
)
from dna_hf.models import DnATimesformerVideoProcessor
from dna_hf.models.video_decoding import FrameSampling, decode_video


UNIFORM = FrameSampling("uniform", 4)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Six videos of ten frames that get lighter, each from another level on."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        with av.open(str(folder / f"{number}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for index in range(10):
                pixels = np.full((48, 64, 3), 20 * number + 5 * index, dtype=np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode(None))
    return folder


def split_of(folder, names=None):
    names = names or sorted(path.name for path in folder.iterdir())
    return LabelledVideos([Clip(str(folder / name), index % 2) for index, name in enumerate(names)], ["a", "b"], "x")


def arguments_of(**options):
    return VideoDataArguments(**{"short_side": [32, 40], "train_sampling": "uniform"} | options)


def dataset_of(videos, training=False, **options):
    arguments = arguments_of(**options)
    processor = video_processor(arguments, (32, 32), 4)
    augmentation = VideoAugmentation(arguments, processor) if training else None
    return VideoDataset(videos, processor, arguments, augmentation)


@pytest.fixture
def with_bad(videos, tmp_path):
    """The same videos, the second one cut off and the fourth one empty."""
    folder = tmp_path / "videos"
    shutil.copytree(videos, folder)
    content = (folder / "1.mp4").read_bytes()
    (folder / "1.mp4").write_bytes(content[: len(content) // 2])
    (folder / "3.mp4").write_bytes(b"")
    return folder


def test_reader_gives_what_decoding_in_this_process_gives(videos):
    reader = VideoReader(30)
    clip = Clip(str(videos / "2.mp4"), 0)
    found = reader.read(clip, UNIFORM)
    expected, _ = decode_video(clip.path, UNIFORM)
    assert torch.equal(found, torch.from_numpy(expected).permute(0, 3, 1, 2))
    assert torch.equal(reader.read(clip, UNIFORM), found)
    reader.close()


def test_reader_takes_a_part_of_a_video(videos):
    reader = VideoReader(30)
    whole = reader.read(Clip(str(videos / "0.mp4"), 0), FrameSampling("uniform", 10))
    part = reader.read(Clip(str(videos / "0.mp4"), 0, start=0.5, end=0.9), UNIFORM)
    assert torch.equal(part, whole[5:9])
    with pytest.raises(DataError, match="has no frame from 5 to 6 s"):
        reader.read(Clip(str(videos / "0.mp4"), 0, start=5, end=6), UNIFORM)
    reader.close()


def test_reader_reads_frames_from_image_files(tmp_path):
    paths = []
    for index in range(8):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.new("RGB", (20, 10), (index, 0, 0)).save(paths[-1])
    frames = VideoReader(30).read(Clip("clip", 0, frames=tuple(paths)), UNIFORM)
    assert frames.shape == (4, 3, 10, 20)
    assert frames[:, 0, 0, 0].tolist() == [1, 3, 5, 7]
    Image.new("RGB", (30, 10)).save(paths[3])
    with pytest.raises(DataError, match="'clip': its frames have different sizes"):
        VideoReader(30).read(Clip("clip", 0, frames=tuple(paths)), UNIFORM)


def test_a_video_that_never_ends_is_given_up(videos, tmp_path):
    """Opening a named pipe blocks for ever, in C code."""
    os.mkfifo(tmp_path / "endless.mp4")
    reader = VideoReader(30)
    reader.read(Clip(str(videos / "0.mp4"), 0), UNIFORM)
    reader.timeout = 1.0
    start = time.monotonic()
    with pytest.raises(DataError, match=r"endless\.mp4.*is not decoded after 1 s"):
        reader.read(Clip(str(tmp_path / "endless.mp4"), 0), UNIFORM)
    assert time.monotonic() - start < 60
    # the next one has a new process
    reader.timeout = 30
    assert reader.read(Clip(str(videos / "0.mp4"), 0), UNIFORM).shape == (4, 3, 48, 64)
    reader.close()


def test_a_crash_of_the_decoder_is_one_sentence(videos):
    reader = VideoReader(30)
    clip = Clip(str(videos / "0.mp4"), 0)
    reader.read(clip, UNIFORM)
    reader._process.kill()
    reader._process.wait()
    with pytest.raises(DataError, match=r"0\.mp4.*crashed"):
        reader.read(clip, UNIFORM)
    assert len(reader.read(clip, UNIFORM)) == 4
    reader.close()


def test_evaluation_repeats_exactly_and_in_workers(videos):
    dataset = dataset_of(split_of(videos))
    first = [dataset[row]["pixel_values"] for row in range(6)]
    assert first[0].shape == (4, 3, 32, 32)
    assert first[0].dtype == torch.float32
    loader = DataLoader(dataset, batch_size=2, num_workers=2)
    again = torch.cat([batch["pixel_values"] for batch in loader])
    assert torch.equal(again, torch.stack(first))
    # the levels of the frames survive: 20 * number + 5 * index, of frames 1, 3, 6, 8
    levels = (first[2] * 0.225 + 0.45).mean(dim=(1, 2, 3)) * 255
    assert torch.allclose(levels, torch.tensor([45.0, 55.0, 70.0, 80.0]), atol=3)


def test_training_depends_on_seed_epoch_and_row_alone(videos):
    dataset = dataset_of(split_of(videos), training=True)
    first = dataset[1]["pixel_values"]
    assert first.shape == (4, 3, 32, 32)
    dataset[2]
    assert torch.equal(dataset[1]["pixel_values"], first)
    dataset.set_epoch(1)
    assert not torch.equal(dataset[1]["pixel_values"], first)
    dataset.set_epoch(0)
    assert torch.equal(dataset[1]["pixel_values"], first)


def test_views_come_one_after_the_other(videos):
    arguments = arguments_of(num_clips=2, num_crops=3)
    processor = video_processor(arguments, (32, 32), 4)
    dataset = VideoDataset(split_of(videos), view_processor(processor, arguments), arguments)
    views = dataset[0]["pixel_values"]
    assert views.shape == (6, 4, 3, 32, 32)
    flat, count = split_views(views[None])
    assert (flat.shape, count) == ((6, 4, 3, 32, 32), 6)


def test_unreadable_videos_end_the_run_by_default(with_bad):
    dataset = dataset_of(split_of(with_bad))
    with pytest.raises(DataError, match=r"cannot read video .*1\.mp4"):
        [dataset[row] for row in range(6)]


def test_evaluation_leaves_unreadable_videos_out(with_bad, tmp_path):
    dataset = dataset_of(split_of(with_bad), on_error="skip", max_bad_fraction=0.4)
    dataset.unreadable.path = tmp_path / "bad.jsonl"
    samples = [dataset[row] for row in range(6)]
    assert [sample["labels"] for sample in samples] == [0, UNREADABLE, 0, UNREADABLE, 0, 1]
    assert [sample["rows"] for sample in samples] == list(range(6))
    assert not samples[1]["pixel_values"].any()
    bad = read_bad_list(dataset.unreadable.path)
    assert sorted(Path(path).name for path in bad) == ["1.mp4", "3.mp4"]
    assert all("cannot read video" in reason for reason in bad.values())
    assert len(dataset.unreadable.path.read_text().splitlines()) == 2


def test_training_puts_the_next_video_in_place(with_bad):
    dataset = dataset_of(split_of(with_bad), training=True, on_error="skip", max_bad_fraction=0.4)
    assert [dataset[row]["rows"] for row in range(6)] == [0, 2, 2, 4, 4, 5]


@pytest.mark.parametrize("training", [False, True])
def test_too_many_unreadable_videos_end_the_run(with_bad, training):
    dataset = dataset_of(split_of(with_bad), training=training, on_error="skip", max_bad_fraction=0.2)
    sentence = (
        r"2 of 6 videos of split 'x' cannot be read, more than max_bad_fraction \(0\.2\) of them; the first: cannot "
        r"read video .*1\.mp4"
    )
    # twice the same one is one
    assert [dataset[row]["rows"] for row in (1, 1)] == ([2, 2] if training else [1, 1])
    with pytest.raises(DataError, match=sentence):
        dataset[3]


def test_training_stops_when_no_video_can_be_read(with_bad):
    dataset = dataset_of(split_of(with_bad, ["1.mp4", "3.mp4"]), training=True, on_error="skip", max_bad_fraction=1.0)
    with pytest.raises(DataError, match="no video of split 'x' can be read"):
        dataset[0]


def test_motion_clips_are_drawn():
    split = motion_splits()["test"]
    arguments = arguments_of(short_side=[32, 32], flip_probability=0)
    processor = video_processor(arguments, (32, 32), NUM_POSITIONS)
    frames = VideoDataset(split, processor, arguments)[3]["pixel_values"]
    expected = torch.from_numpy(split.clips[3].render()).permute(0, 3, 1, 2) / 255
    assert torch.allclose(frames, (expected - 0.45) / 0.225, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampling_rate": 0}, "sampling_rate must be at least 1"),
        ({"video_timeout": 0}, "video_timeout must be positive"),
        ({"short_side": [40, 32]}, "short_side is a pair"),
        ({"num_clips": 0}, "num_clips must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        VideoDataArguments(**options)


def test_what_is_asked_for_goes_before_what_a_checkpoint_says():
    checkpoint = DnATimesformerVideoProcessor(sampling="released", sampling_rate=4, image_mean=[0.1] * 3)
    kept = with_given(checkpoint, arguments_of())
    assert kept.to_dict() == checkpoint.to_dict()
    changed = view_processor(checkpoint, arguments_of(sampling="centered", sampling_rate=8, image_std=[1.0] * 3))
    assert (changed.sampling, changed.sampling_rate) == ("centered", 8)
    assert (list(changed.image_mean), list(changed.image_std)) == ([0.1] * 3, [1.0] * 3)
    assert checkpoint.sampling == "released"


def test_short_side_below_the_crop_is_refused():
    arguments = arguments_of(short_side=[16, 40])
    with pytest.raises(DataError, match="smaller than the crop"):
        VideoAugmentation(arguments, video_processor(arguments, (32, 32), 4))


def test_a_processor_without_a_crop_has_no_one_size():
    processor = video_processor(arguments_of(), (32, 32), 4)
    assert output_size(processor) == (32, 32)
    processor.do_center_crop = False
    with pytest.raises(DataError, match="do_center_crop"):
        output_size(processor)


def test_several_crops_of_whole_frames_are_refused():
    arguments = arguments_of(num_crops=3)
    processor = video_processor(arguments, (32, 32), 4)
    processor.do_center_crop = False
    with pytest.raises(DataError, match="num_crops is 3, but the video processor keeps whole frames"):
        view_processor(processor, arguments)
