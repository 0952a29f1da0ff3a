"""The video processor of the video language model: which frames it takes, how large they get, and their patches."""

import json
from fractions import Fraction
from itertools import product

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.video_llama_3.image_processing_pil_video_llama_3 import VideoLlama3ImageProcessorPil

from dna_hf.models import DnAVideoLlama3ImageProcessor, DnAVideoLlama3VideoProcessor
from dna_hf.models.image_processing_dna_video_llama3 import resized_sides
from tests.kit.processors import assert_settings
from tests.kit.videos import number_of, numbered, numbers_of, write_sound, write_video
from tests.kit.web import served


# of the model: 14 pixels a patch, 2 x 2 patches a token
FACTOR = 28
FRAMES = 75


def processor(**options):
    return DnAVideoLlama3VideoProcessor(**options)


def noise(count, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def grid_of(video, **options):
    return processor()(video, **options).video_grid_thw.tolist()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """2.5 seconds at 30 frames per second."""
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", FRAMES, options={"g": "12"})


# --- frames


def chosen_by_time(total, rate, fps, max_frames):
    """Numbers and times of the frames, by looking at the time of each."""
    rate, fps, late = Fraction(rate), Fraction(fps), Fraction(1, 200)
    times = [index / rate for index in range(total)]
    moments = [Fraction(0)]
    while moments[-1] + 1 / fps < (total - late) / rate:
        moments.append(moments[-1] + 1 / fps)
    if len(moments) > max_frames:
        places = [Fraction(k * (len(moments) - 1), max(max_frames - 1, 1)) for k in range(max_frames)]
        moments = [moments[int(place)] for place in places]
    frames = [max(index for index, time in enumerate(times) if time <= moment + late / rate) for moment in moments]
    return frames, [float(moment) for moment in moments]


@pytest.mark.parametrize("rate", [30, 25, Fraction(30000, 1001), Fraction(24000, 1001), 60, 10, 3, 1, Fraction(1, 2)])
def test_frames_are_those_shown_at_each_time(rate):
    for total, fps, limit in product((1, 7, 30, 121), (1, 2, 0.5, 5), (1, 9, 180)):
        process = processor(fps=fps, max_frames=limit)
        frames, times = process.choose_frames(total, float(rate))
        expected_frames, expected_times = chosen_by_time(total, rate, fps, limit)
        assert frames == expected_frames and times == pytest.approx(expected_times)
        assert 1 <= len(frames) <= limit


def ffmpeg_frames(path, fps):
    """Times of, and numbers in, the frames that FFmpeg's filter `fps` makes of a video, as the authors use it."""
    av = pytest.importorskip("av")
    found = []
    with av.open(str(path)) as container:
        stream, graph = container.streams.video[0], av.filter.Graph()
        steps = graph.add_buffer(template=stream), graph.add("fps", f"fps={fps}:round=up"), graph.add("buffersink")
        graph.link_nodes(*steps).configure()
        for frame in [*container.decode(stream), None]:
            graph.push(frame)
            while True:
                try:
                    made = graph.pull()
                except (av.error.BlockingIOError, av.error.EOFError):
                    break
                found.append((float(made.pts * made.time_base), number_of(made.to_ndarray(format="rgb24"))))
    return found


@pytest.mark.parametrize("rate", [25, Fraction(30000, 1001)])
def test_frames_are_those_of_ffmpeg(tmp_path, rate):
    clip = write_video(tmp_path / "a.mp4", 110, fps=rate)
    for fps in (1, 2, 3):
        found = processor(fps=fps).read_video(clip)
        assert list(zip(found.timestamps, numbers_of(found.frames.numpy()), strict=True)) == [
            (pytest.approx(time), number) for time, number in ffmpeg_frames(clip, fps)
        ]


@pytest.mark.parametrize(
    ("options", "frames", "times"),
    [
        ({}, [0, 30, 60], [0.0, 1.0, 2.0]),
        ({"fps": 2}, [0, 15, 30, 45, 60], [0.0, 0.5, 1.0, 1.5, 2.0]),
        ({"fps": 0.5}, [0, 60], [0.0, 2.0]),
        ({"fps": 4, "max_frames": 4}, [0, 22, 45, 67], [0.0, 0.75, 1.5, 2.25]),
        ({"max_frames": 1}, [0], [0.0]),
        ({"do_sample_frames": False}, list(range(FRAMES)), [k / 30 for k in range(FRAMES)]),
    ],
)
def test_frames_of_a_file(path, options, frames, times):
    for video in (path, str(path)):
        found = processor(**options).read_video(video)
        assert numbers_of(found.frames.numpy()) == frames
        assert found.timestamps == pytest.approx(times)


def test_frames_of_a_part(path):
    found = processor().read_video({"path": path, "start": 1.2, "end": 2.3})
    assert numbers_of(found.frames.numpy()) == [36, 66] and found.timestamps == pytest.approx([1.2, 2.2])
    with pytest.raises(ValueError, match=r"cannot read video '.*a\.mp4': it lasts 2\.5 s and has no frame from 9"):
        processor().read_video({"path": path, "start": 9})


def test_times_rounded_to_milliseconds(tmp_path):
    # a frame that should begin at 1.000 s begins at 1.000 or 1.001
    clip = write_video(tmp_path / "a.mkv", 100, fps=30, pts=[round(k * 1000 / 30) for k in range(100)])
    assert numbers_of(processor().read_video(clip).frames.numpy()) == [0, 30, 60, 90]


def test_a_clip_shorter_than_a_second(tmp_path):
    clip = write_video(tmp_path / "a.mp4", 9)
    found = processor().read_video(clip)
    assert numbers_of(found.frames.numpy()) == [0] and found.timestamps == [0.0]
    assert grid_of(clip, fps=0.01) == [[1, 8, 10]]


def test_a_folder_has_three_frames_per_second(tmp_path):
    for number in range(8):
        Image.fromarray(numbered(number)).save(tmp_path / f"{number:03}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    found = processor().read_video(tmp_path)
    assert numbers_of(found.frames.numpy()) == [0, 3, 6] and found.timestamps == [0.0, 1.0, 2.0]
    found = processor(fps=3).read_video({"path": tmp_path, "start": 1, "end": 2})
    assert numbers_of(found.frames.numpy()) == [3, 4, 5] and found.timestamps == pytest.approx([1, 4 / 3, 5 / 3])
    with pytest.raises(ValueError, match=r"the folder has no frames from 3 to None s\.$"):
        processor().read_video({"path": tmp_path, "start": 3})


def test_frames_that_were_chosen_already():
    video = np.stack([numbered(k) for k in range(9)])
    found = processor(fps=2).read_video(video)
    assert numbers_of(found.frames.numpy()) == list(range(9)) and found.timestamps == [k / 2 for k in range(9)]
    found = processor(max_frames=3).read_video(video)
    assert numbers_of(found.frames.numpy()) == [0, 4, 8] and found.timestamps == [0, 4, 8]


def test_inputs_of_every_kind_are_equal(tmp_path):
    frames = noise(3, 48, 64)
    tensor = torch.from_numpy(frames)
    expected = processor()(frames)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for frame, name in zip(frames, paths, strict=True):
        Image.fromarray(frame).save(name)
    same = {
        "tensor": tensor,
        "channels in front": tensor.permute(0, 3, 1, 2),
        "list of arrays": list(frames),
        "list of tensors": list(tensor),
        "pictures": [Image.fromarray(frame) for frame in frames],
        "pictures with transparency": [Image.fromarray(frame).convert("RGBA") for frame in frames],
        "a list of one video": [frames],
        "paths": [paths],
        "paths as text": [[str(name) for name in paths]],
    }
    for name, video in same.items():
        found = processor()(video)
        assert torch.equal(found.pixel_values_videos, expected.pixel_values_videos), name
    grey = processor()(np.repeat(frames[..., :1], 3, axis=-1)).pixel_values_videos
    assert torch.equal(processor()(frames[..., :1]).pixel_values_videos, grey)


def test_urls(path, monkeypatch):
    with served(path.parent) as address:
        with pytest.raises(ValueError, match=r"^cannot read video 'http.*a.mp4': HF_HUB_OFFLINE=1 forbids downloads"):
            processor()(address + path.name)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        found = processor()(address + path.name).pixel_values_videos
        assert torch.equal(found, processor()(path).pixel_values_videos)
        with pytest.raises(ValueError, match="404"):
            processor()(address + "missing.mp4")


# --- sizes


@pytest.mark.parametrize(
    ("height", "width", "frames", "budget", "tokens"),
    [
        # a share of 256 tokens: 16 x 16
        (1000, 1000, 40, 10240, (16, 16)),
        (448, 448, 40, 10240, (16, 16)),
        (1080, 1920, 40, 10240, (12, 21)),
        (1920, 1080, 40, 10240, (21, 12)),
        # a share of 91.02 tokens: 9 x 9
        (1000, 1000, 180, 16384, (9, 9)),
        (720, 1280, 180, 16384, (7, 12)),
        # they fit: rounded
        (480, 640, 1, 16384, (17, 23)),
        (42, 434, 1, 16384, (2, 16)),
        # smaller than 16 tokens: up
        (28, 28, 1, 16384, (4, 4)),
        (60, 80, 1, 16384, (4, 5)),
        # not beyond the share even so
        (60, 80, 1024, 16384, (4, 4)),
        (10, 1000, 180, 16384, (1, 40)),
        (10, 100000, 180, 16384, (1, 91)),
    ],
)
def test_sizes(height, width, frames, budget, tokens):
    process = processor(max_visual_tokens=budget)
    sides = resized_sides(height, width, FACTOR, 16 * FACTOR**2, process.pixels_per_frame(frames))
    assert sides == (tokens[0] * FACTOR, tokens[1] * FACTOR)


def most(value, limit):
    """The largest number whose square, times `value`, is no more than the limit."""
    number = 0
    while (number + 1) ** 2 * value <= limit:
        number += 1
    return number


def test_sizes_agree_with_their_definition():
    generator = np.random.default_rng(0)
    for _ in range(500):
        height, width = (int(side) for side in generator.integers(1, 3000, 2))
        frames, budget = int(generator.integers(1, 300)), int(generator.integers(5000, 20000))
        area = budget * FACTOR**2 // frames
        rows, columns = (side // FACTOR for side in resized_sides(height, width, FACTOR, 16 * FACTOR**2, area))
        assert rows >= 1 and columns >= 1 and rows * columns * frames <= budget
        whole = round(height / FACTOR), round(width / FACTOR)
        if whole[0] * whole[1] * FACTOR**2 > area:
            expected = most(width * FACTOR**2, height * area), most(height * FACTOR**2, width * area)
        elif whole[0] * whole[1] < 16:
            # the smallest that reaches it: one more than the largest that does not
            expected = most(width, height * 16 - 1) + 1, most(height, width * 16 - 1) + 1
        else:
            expected = whole
        if min(expected) >= 1 and expected[0] * expected[1] * FACTOR**2 <= area:
            assert (rows, columns) == expected, (height, width, area)


def test_too_many_frames_for_the_budget():
    video = noise(5, 30, 30)
    assert grid_of(video, max_visual_tokens=80) == [[5, 8, 8]]
    message = (
        r"^5 images or frames of at least 16 tokens each do not fit max_visual_tokens=79: lower fps or max_frames, "
    )
    with pytest.raises(ValueError, match=message):
        grid_of(video, max_visual_tokens=79)
    assert grid_of(video, max_visual_tokens=79, max_frames=4) == [[4, 8, 8]]


# --- pixels


def patches_by_hand(frame, patch, merge):
    """Patches of a frame (height, width, 3): token by token, in each row by row."""
    values = (frame.astype(np.float64) / 255 - 0.5) / 0.5
    side, result = patch * merge, []
    for top, left in product(range(0, frame.shape[0], side), range(0, frame.shape[1], side)):
        for y, x in product(range(top, top + side, patch), range(left, left + side, patch)):
            result.append(values[y : y + patch, x : x + patch].transpose(2, 0, 1).ravel())
    return np.stack(result)


@pytest.mark.parametrize(("patch", "merge"), [(14, 2), (14, 1), (4, 2), (4, 3)])
def test_patches_agree_with_pillow_and_numpy(patch, merge):
    frames = noise(3, 130, 101)
    found = processor(patch_size=patch, merge_size=merge)(frames)
    count, rows, columns = found.video_grid_thw[0].tolist()
    resized = [Image.fromarray(frame).resize((columns * patch, rows * patch), Image.BICUBIC) for frame in frames]
    expected = np.concatenate([patches_by_hand(np.asarray(frame), patch, merge) for frame in resized])
    assert count == 3 and found.pixel_values_videos.dtype == torch.float32
    assert found.pixel_values_videos.shape == expected.shape
    assert np.abs(found.pixel_values_videos.numpy() - expected).max() < 1e-6
    assert found.video_merge_sizes.tolist() == [merge]
    assert found.video_grid_thw.dtype == found.video_merge_sizes.dtype == torch.int64


@pytest.mark.parametrize(("height", "width"), [(112, 168), (130, 101), (900, 700), (20, 30)])
def test_a_frame_is_what_transformers_makes_of_an_image(height, width):
    frame = noise(1, height, width)[0]
    mine = processor()(frame[None])
    limits = {"shortest_edge": 16 * FACTOR**2, "longest_edge": 16384 * FACTOR**2}
    for native in (VideoLlama3ImageProcessorPil, DnAVideoLlama3ImageProcessor):
        theirs = native(merge_size=2)(frame, size=limits, return_tensors="pt")
        assert mine.video_grid_thw.tolist() == theirs.image_grid_thw.tolist()
        assert (mine.pixel_values_videos - theirs.pixel_values).abs().max() < 1e-6


def test_several_videos_follow_each_other():
    first, second = noise(2, 60, 90), noise(3, 200, 56, seed=1)
    both = processor()([first, second], return_tensors="pt")
    alone = [processor()(video) for video in (first, second)]
    assert torch.equal(both.pixel_values_videos, torch.cat([one.pixel_values_videos for one in alone]))
    assert torch.equal(both.video_grid_thw, torch.cat([one.video_grid_thw for one in alone]))
    assert both.video_merge_sizes.tolist() == [2, 2] and "video_compression_mask" not in both


def test_options_of_pixels():
    frames = noise(1, 112, 112)
    raw = processor()(frames, do_normalize=False, do_rescale=False).pixel_values_videos
    assert raw.max() == 255 and torch.equal(raw, raw.round())
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    other = processor(image_mean=mean, image_std=std)(frames).pixel_values_videos.view(-1, 3, 14 * 14)
    expected = (raw.view(-1, 3, 14 * 14) / 255 - torch.tensor(mean)[:, None]) / torch.tensor(std)[:, None]
    assert (other - expected).abs().max() < 1e-6
    same = processor()(frames, do_resize=False)
    assert torch.equal(same.pixel_values_videos, processor()(frames).pixel_values_videos)
    with pytest.raises(ValueError, match="frames of 30x40 pixels are no multiples of 28: set do_resize"):
        processor()(noise(1, 30, 40), do_resize=False)


def test_token_compression_leaves_out_what_stays_the_same():
    # 3 x 4 tokens of 2 x 2 patches of 2 pixels
    video = noise(4, 12, 16)
    video[1] = video[0]
    video[1, 5, 9] += 128
    video[2] = video[1]
    options = {"patch_size": 2, "min_visual_tokens": 1, "use_token_compression": True}
    found = processor(**options)(np.concatenate([video, video[:1]]))
    kept = found.video_compression_mask.view(5, 12)
    assert found.video_compression_mask.dtype == torch.bool and found.video_grid_thw.tolist() == [[5, 6, 8]]
    assert kept[0].all() and kept[1].nonzero().tolist() == [[6]]
    # of a frame that does not change, the first token stays
    assert kept[2].nonzero().tolist() == [[0]] and kept[3].all() and kept[4].all()
    one = processor(**options)([video[:1], video[:2]]).video_compression_mask
    assert one.tolist() == [True] * 12 + kept[:2].flatten().tolist()


def test_token_compression_counts_levels():
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(12, 12, generator=generator)
    # around the threshold of a tenth of a level
    second = first + torch.rand(12, 1, generator=generator) * 0.3 / 255
    kept = processor(patch_size=2).compression_mask(torch.cat([first, second]), (2, 2, 6))
    changes = [(second - first)[4 * token : 4 * token + 4].abs().mean().item() * 255 for token in range(3)]
    assert kept.tolist() == [[True] * 3, [change > 0.1 for change in changes]] and len(set(kept[1].tolist())) == 2


# --- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, r"fps must be a number above 0, got 0\.$"),
        ({"fps": -1}, "fps must be a number above 0"),
        ({"fps": "1"}, "fps must be a number above 0, got '1'"),
        ({"max_frames": 0}, "max_frames must be an integer of at least 1, got 0"),
        ({"max_frames": 2.5}, "max_frames must be an integer"),
        ({"max_visual_tokens": 0}, "max_visual_tokens must be"),
        ({"patch_size": 0}, "patch_size must be"),
        ({"merge_size": -2}, "merge_size must be"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ValueError, match=message):
        processor(**options)
    with pytest.raises(ValueError, match=message):
        processor()(noise(1, 30, 30), **options)


def test_unknown_options():
    with pytest.raises(ValueError, match="DnAVideoLlama3VideoProcessor has no option 'frames': did you mean '"):
        processor()(noise(1, 30, 30), frames=8)
    with pytest.raises(ValueError, match="temporal_patch_size must be 1"):
        processor(temporal_patch_size=2)


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (5, "videos must be a video or a list of videos, got 5"),
        ([], "videos must be a video or a list of videos"),
        ([5], "a video is a path, an array or tensor of frames, or a list of images, got int"),
        ([[]], "a video is a path, an array or tensor of frames, or a list of images, got list"),
        (np.zeros((2, 30, 30, 4), np.uint8), r"1 or 3 channels, got shape \(2, 30, 30, 4\)"),
        (np.zeros((0, 30, 30, 3), np.uint8), "a video is"),
        (np.full((2, 30, 30, 3), 256.0), r"a video has bytes from 0 to 255 .*, got torch\.float64 from 256 to 256"),
        (np.full((2, 30, 30, 3), np.nan), "a video has bytes from 0 to 255"),
        ([[np.zeros((30, 30, 3), np.uint8), np.zeros((30, 40, 3), np.uint8)]], "the frames of a video have different"),
        ({"video": "a.mp4"}, "a video has a path, start, end, .* got 'video': did you mean 'video_path'"),
        ({"start": 1}, "a part of a video needs a path, got start"),
        ({"path": np.zeros((2, 30, 30, 3), np.uint8), "end": 1}, "start and end need the path of a video"),
        (
            {"path": "a.mp4", "start": 3, "end": 3},
            "start and end are seconds, the first before the second, got 3 and 3",
        ),
        ({"path": "a.mp4", "start": -1}, "start and end are seconds, .* got -1 and None"),
        ({"path": "a.mp4", "end": "3"}, "start and end are seconds, .* got None and '3'"),
        ("x" * 3000, "^cannot read video 'xxx.*: .*File name too long"),
        ("missing.mp4", r"^cannot read video 'missing\.mp4': no such file or directory\.$"),
        ([["missing.png"]], r"^cannot read image 'missing\.png': there is no such file\.$"),
    ],
)
def test_what_is_no_video(video, message):
    with pytest.raises(ValueError, match=message):
        processor()(video)


def test_a_video_that_cannot_be_read_is_named(tmp_path, path):
    (tmp_path / "text.mp4").write_text("not a video")
    (tmp_path / "cut.mp4").write_bytes(path.read_bytes()[:-2000])
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "empty").mkdir()
    for name in ("text.mp4", "cut.mp4", "sound.mp4", "empty"):
        with pytest.raises(ValueError, match=rf"^cannot read video '.*{name}': .+[^.]\.$"):
            processor()(tmp_path / name)


# --- saving and loading


def test_saved_and_loaded(tmp_path):
    options = {"fps": 2, "max_frames": 7, "max_visual_tokens": 500, "min_visual_tokens": 4, "patch_size": 7}
    options |= {"merge_size": 3, "use_token_compression": True, "image_mean": [0.1, 0.2, 0.3]}
    saved = processor(**options)
    saved.save_pretrained(tmp_path)
    loaded = DnAVideoLlama3VideoProcessor.from_pretrained(tmp_path)
    assert_settings(loaded, options)
    video = noise(9, 60, 70)
    for name, tensor in saved(video).items():
        assert torch.equal(loaded(video)[name], tensor), name
    # not only what differs from the defaults: they may change
    processor().save_pretrained(tmp_path / "plain")
    text = json.loads((tmp_path / "plain" / "video_preprocessor_config.json").read_text())
    assert (text["max_frames"], text["max_visual_tokens"], text["patch_size"], text["fps"]) == (180, 16384, 14, 1)
    assert {file.name for file in tmp_path.glob("*.py")} == {
        "image_depth.py",
        "image_processing_dna_video_llama3.py",
        "processing_options.py",
        "video_decoding.py",
        "video_inputs.py",
        "video_metadata.py",
        "video_processing_dna_video_llama3.py",
    }
    assert DnAVideoLlama3VideoProcessor.from_pretrained(tmp_path, fps=5).fps == 5


def test_settings_of_transformers_own_processors(tmp_path):
    common = {"patch_size": 16, "image_mean": [0.4] * 3, "image_std": [0.3] * 3, "temporal_patch_size": 1}
    size = {"shortest_edge": 20 * 32**2, "longest_edge": 600 * 32**2}
    of_videos = {"video_processor_type": "VideoLlama3VideoProcessor", "min_frames": 4, "max_frames": 90, "size": size}
    of_videos |= {
        "merge_size": 2,
        "use_token_compression": True,
        "do_sample_frames": True,
        "return_metadata": True,
        "fps": None,
    }
    of_images = {"image_processor_type": "VideoLlama3ImageProcessor", "merge_size": 1, "size": size}
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(common | of_videos))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(common | of_images))
    videos = DnAVideoLlama3VideoProcessor.from_pretrained(tmp_path)
    assert (videos.patch_size, videos.merge_size, videos.max_frames, videos.use_token_compression) == (16, 2, 90, True)
    assert (videos.min_visual_tokens, videos.max_visual_tokens, *videos.image_mean) == (20, 600, 0.4, 0.4, 0.4)
    assert videos(noise(5, 100, 100)).pixel_values_videos.shape[1] == 3 * 16**2
    images = DnAVideoLlama3ImageProcessor.from_pretrained(tmp_path)
    assert (images.patch_size, images.merge_size, list(images.image_mean)) == (16, 1, [0.4] * 3)
    assert images.size["longest_edge"] == size["longest_edge"]
    # where there is nothing about videos, transformers gives what is said about images
    (tmp_path / "video_preprocessor_config.json").unlink()
    videos = DnAVideoLlama3VideoProcessor.from_pretrained(tmp_path)
    assert (videos.patch_size, videos.merge_size, videos.max_visual_tokens, videos.image_mean[0]) == (
        16,
        2,
        16384,
        0.4,
    )
    assert DnAVideoLlama3VideoProcessor.from_pretrained(tmp_path, merge_size=4).merge_size == 4
    older = processor(min_pixels=3 * FACTOR**2, max_pixels=100 * FACTOR**2)
    assert (older.min_visual_tokens, older.max_visual_tokens) == (3, 100)


def test_options_of_a_call_do_not_last():
    process, video = processor(), noise(4, 48, 64)
    before, first = process.to_dict(), process(video).pixel_values_videos
    assert process(video, max_frames=2, merge_size=1, patch_size=8).video_grid_thw[0, 0] == 2
    assert process.to_dict() == before and torch.equal(process(video).pixel_values_videos, first)
