"""Options that every processor of transformers takes, and settings that a video of a conversation has for itself."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer
from transformers.video_utils import VideoMetadata

from dna_hf.models import (
    DnATimesformerVideoProcessor,
    DnAVideoLlama3ImageProcessor,
    DnAVideoLlama3Processor,
    DnAVideoLlama3VideoProcessor,
)
from tests.kit.video_llm import PROBES, byte_tokenizer, tiny_processor
from tests.kit.videos import numbered, numbers_of, write_video


IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
GENERATOR = np.random.default_rng(0)
PICTURE = GENERATOR.integers(0, 256, (60, 90, 3), dtype=np.uint8)
CLIP = GENERATOR.integers(0, 256, (30, 56, 56, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """3 seconds at 10 frames per second, whose frames show their numbers."""
    return str(write_video(tmp_path_factory.mktemp("video") / "a.mp4", 30, fps=10))


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def of_image(processor, picture=PICTURE, **options):
    return processor(text=f"{IMAGE}a", images=[picture], return_tensors="pt", **options)


def of_video(processor, clip=CLIP, **options):
    return processor(text=f"{VIDEO}a", videos=[clip], return_tensors="pt", **options)


def times(processor, inputs, row=0):
    text = processor.tokenizer.decode(inputs["input_ids"][row])
    return [float(part.partition("s:")[0]) for part in text.split("Time ")[1:]]


def chat(processor, part, **options):
    messages = [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"} | options
    return processor.apply_chat_template(messages, **options)


# --- sizes


@pytest.mark.parametrize(
    "options",
    [
        {"max_pixels": 3136},
        {"images_kwargs": {"max_pixels": 3136}},
        {"size": {"shortest_edge": 196, "longest_edge": 3136}},
        {"images_kwargs": {"size": {"min_pixels": 196, "max_pixels": 3136}}},
    ],
)
def test_images_have_at_most_max_pixels(processor, options):
    assert of_image(processor)["image_grid_thw"].tolist() == [[1, 4, 6]]
    # 3136 pixels are 16 patches: of 2:3, 3 x 4
    found = of_image(processor, **options)
    assert found["image_grid_thw"].tolist() == [[1, 3, 4]]
    assert int((found["input_ids"] == processor.image_token_id).sum()) == 12
    part = {"type": "image", "image": Image.fromarray(PICTURE)}
    by_chat = chat(processor, part, processor_kwargs=options)
    assert torch.equal(by_chat["pixel_values"], found["pixel_values"])


def test_images_have_at_least_min_pixels(processor):
    assert of_image(processor, min_pixels=40 * 196)["image_grid_thw"].prod() >= 40
    direct = DnAVideoLlama3ImageProcessor()(PICTURE, max_pixels=3136, return_tensors="pt")
    assert direct["image_grid_thw"].tolist() == [[1, 3, 4]]


def test_frames_have_at_most_max_pixels_together(processor):
    clip, pixels = CLIP[:2], 2 * 4 * 28**2
    found = of_video(processor, clip, max_pixels=pixels, videos_kwargs={"min_visual_tokens": 1})
    assert found["video_grid_thw"].tolist() == [[2, 4, 4]]
    with pytest.raises(
        ValueError, match="2 images or frames of at least 16 tokens each do not fit max_visual_tokens=8"
    ):
        of_video(processor, clip, max_pixels=pixels)
    with pytest.raises(ValueError, match="max_visual_tokens is given twice"):
        DnAVideoLlama3VideoProcessor()(clip, max_pixels=pixels, max_visual_tokens=8)
    exact = 3 * 28**2 + 1
    narrow = DnAVideoLlama3VideoProcessor().with_options(min_pixels=exact, max_pixels=exact)
    assert (narrow.min_visual_tokens, narrow.max_visual_tokens) == (4, 3)
    # what limits a video limits no image beside it
    both = processor(
        text=f"{VIDEO}{IMAGE}",
        videos=[clip],
        images=[PICTURE],
        videos_kwargs={"max_pixels": pixels, "min_visual_tokens": 1},
    )
    assert both["video_grid_thw"].tolist() == [[2, 4, 4]] and both["image_grid_thw"].tolist() == [[1, 4, 6]]


# --- frames


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 15, 29, 30])
def test_num_frames_is_as_in_transformers(path, count):
    process = DnAVideoLlama3VideoProcessor()
    expected = torch.arange(0, 30, 30 / count)[:count].add(1e-4).int().tolist()
    for video in (path, np.stack([numbered(k) for k in range(30)])):
        found = process.with_options(num_frames=count).read_video(video)
        assert numbers_of(found.frames.numpy()) == expected
        if video is path:
            assert found.timestamps == pytest.approx([index / 10 for index in expected])


def test_more_frames_than_there_are_are_named(path):
    with pytest.raises(ValueError, match=r"cannot read video '.*a\.mp4': it has 30 frames, fewer than num_frames=31"):
        DnAVideoLlama3VideoProcessor(num_frames=31)(path)
    with pytest.raises(ValueError, match="a video of 30 frames has fewer than num_frames=31"):
        DnAVideoLlama3VideoProcessor()(CLIP, num_frames=31)


def test_a_fps_of_the_call_goes_before_a_number_of_frames_that_was_set(path):
    process = DnAVideoLlama3VideoProcessor(num_frames=5)
    assert len(process.read_video(path).frames) == 5
    assert len(process.with_options(fps=2).read_video(path).frames) == 6
    # one frame a second of three, at most
    assert len(process.with_options(max_frames=4).read_video(path).frames) == 3
    assert len(process.with_options(max_frames=2).read_video(path).frames) == 2


@pytest.mark.parametrize(
    ("metadata", "options", "expected"),
    [
        ({"fps": 10}, {}, [0, 1, 2]),
        ({"fps": 10, "total_num_frames": 30, "duration": 3.0}, {"fps": 2}, [0, 0.5, 1, 1.5, 2, 2.5]),
        ({"total_num_frames": 30, "duration": 6.0}, {}, [0, 1, 2, 3, 4, 5]),
        ({"fps": 10, "frames_indices": list(range(100, 130))}, {}, [10, 11, 12]),
        # one every two seconds: each of them once, at its own time
        ({"fps": 10, "total_num_frames": 600, "frames_indices": list(range(0, 600, 20))}, {}, list(range(0, 60, 2))),
        ({"fps": 10}, {"num_frames": 4}, [0, 0.7, 1.5, 2.2]),
        ({"fps": 10}, {"fps": 5, "max_frames": 2}, [0, 2.8]),
        ({"fps": 1}, {"do_sample_frames": False}, list(range(30))),
    ],
)
def test_frames_decoded_elsewhere_keep_their_times(processor, metadata, options, expected):
    options = {"max_visual_tokens": 1000} | options
    for known in (metadata, [metadata], [[metadata]], VideoMetadata(**{"total_num_frames": 30} | metadata)):
        inputs = of_video(processor, video_metadata=known, **options)
        assert times(processor, inputs) == expected
    part = {"type": "video", "video": CLIP}
    assert times(processor, chat(processor, part, video_metadata=[metadata], **options)) == expected


def test_metadata_is_of_each_video(processor, path):
    texts, clips = [f"{VIDEO}{VIDEO}", VIDEO], [CLIP[:3], path, CLIP[:2]]
    known = [{"fps": 0.5}, None, {"fps": 0.25}]
    found = processor(text=texts, videos=clips, video_metadata=known, return_tensors="pt", fps=1)
    assert times(processor, found) == [0, 2, 4, 0, 1, 2] and times(processor, found, 1) == [0, 4]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"fsp": 10}, "video_metadata has no 'fsp': did you mean 'fps'"),
        ({"total_num_frames": 30}, "video_metadata needs fps above 0"),
        ({"fps": 0}, "video_metadata needs fps above 0"),
        ({"fps": 10, "total_num_frames": 300}, "tells of 300 frames, but there are 30: give frames_indices"),
        ({"fps": 10, "frames_indices": [0, 1]}, "frames_indices of video_metadata are 2 numbers for 30 frames"),
        ({"fps": 10, "frames_indices": list(range(30))[::-1]}, "give the number of each frame, in order"),
        ([{"fps": 10}] * 2, "video_metadata tells of 2 videos, but there are 1"),
        ("10", "video_metadata must be a VideoMetadata or a dictionary"),
    ],
)
def test_metadata_that_does_not_fit(processor, metadata, message):
    with pytest.raises(ValueError, match=message):
        of_video(processor, video_metadata=metadata)


def test_a_file_tells_itself(processor, path):
    with pytest.raises(ValueError, match=r"video_metadata tells of frames .* but '.*a\.mp4' is read here"):
        of_video(processor, path, video_metadata={"fps": 10})


def test_what_is_known_of_the_frames_is_returned(processor, path):
    for options, expected in (({}, [0, 10, 20]), ({"num_frames": 2}, [0, 15])):
        (known,) = of_video(processor, path, return_metadata=True, **options)["video_metadata"]
        assert (known.fps, known.total_num_frames, known.frames_indices) == (pytest.approx(10), 30, expected)
        assert known.duration == pytest.approx(3) and (known.height, known.width) == numbered(0).shape[:2]
    part = {"path": path, "start": 1.05, "end": 2.5}
    (known,) = DnAVideoLlama3VideoProcessor()(part, return_metadata=True)["video_metadata"]
    assert known.total_num_frames == 14 and known.frames_indices[0] in (10, 11)
    assert "video_metadata" not in of_video(processor, path)


# --- numbers


def test_floating_point_numbers_are_scaled_once(processor):
    expected = of_image(processor)["pixel_values"], of_video(processor, CLIP[:2])["pixel_values_videos"]
    assert expected[0].std() > 0.1
    for scaled, options in ((255.0, {}), (255.0, {"do_rescale": False}), (1.0, {})):
        found = of_image(processor, PICTURE / scaled, **options)["pixel_values"]
        assert (found - expected[0]).abs().max() < 1e-5, (scaled, options)
        clip = torch.from_numpy(CLIP[:2] / scaled).float()
        found = of_video(processor, clip, **options)["pixel_values_videos"]
        assert (found - expected[1]).abs().max() < 1e-5, (scaled, options)
        found = DnAVideoLlama3ImageProcessor()(PICTURE / scaled, return_tensors="pt", **options)["pixel_values"]
        assert (found - expected[0]).abs().max() < 1e-5, (scaled, options)


def test_floating_point_numbers_of_the_timesformer_are_scaled_once():
    process = DnATimesformerVideoProcessor(num_frames=4)
    expected = process(CLIP).pixel_values
    for scaled, options in ((255.0, {}), (255.0, {"do_rescale": False}), (1.0, {})):
        found = process(CLIP / scaled, **options).pixel_values
        assert (found - expected).abs().max() < 1e-4 and found.std() > 0.1, (scaled, options)
    with pytest.raises(ValueError, match=r"a video has bytes .*, got torch\.float64 from -1 to -1"):
        process(np.full((4, 30, 30, 3), -1.0))


@pytest.mark.parametrize("kind", ["uint16", "uint32", "bool"])
def test_numbers_whose_range_is_not_known(processor, kind):
    clip = np.ones((2, 60, 60, 3), kind)
    for call in (of_image, lambda _, picture: DnAVideoLlama3ImageProcessor()(picture)):
        with pytest.raises(ValueError, match=rf"^an image has bytes from 0 to 255 .*, got torch\.{kind}\.$"):
            call(processor, clip[0])
    for call in (of_video, lambda _, video: DnATimesformerVideoProcessor(num_frames=2)(video)):
        with pytest.raises(ValueError, match=rf"^a video has bytes from 0 to 255 .*, got torch\.{kind}\.$"):
            call(processor, clip)


def test_input_data_format():
    # 3 frames of 3 rows: only what is said can tell
    clip = GENERATOR.integers(0, 256, (3, 3, 28, 3), dtype=np.uint8)
    for process in (DnAVideoLlama3VideoProcessor(), DnATimesformerVideoProcessor(num_frames=3)):
        name = process.model_input_names[0]
        expected = process(clip, input_data_format="channels_last")[name]
        other = process(clip.transpose(0, 3, 1, 2), input_data_format="channels_first")[name]
        assert torch.equal(expected, other)
        with pytest.raises(ValueError, match="input_data_format must be channels_first or channels_last, got 'x'"):
            process(clip, input_data_format="x")


# --- text


def test_what_the_tokenizer_was_made_with_counts(tmp_path):
    byte_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, padding="max_length", max_length=40, padding_side="left")
    process = DnAVideoLlama3Processor(DnAVideoLlama3ImageProcessor(), tokenizer, DnAVideoLlama3VideoProcessor())
    found = process(text="a", return_tensors="pt")
    assert found["input_ids"].shape == (1, 40) and found["attention_mask"][0].tolist() == [0] * 39 + [1]
    assert process(text="a", padding=False, return_tensors="pt")["input_ids"].shape == (1, 1)
    for given in ({"common_kwargs": {"return_tensors": "pt"}}, {"text_kwargs": {"return_tensors": "pt"}}):
        assert process(text="a", **given)["input_ids"].shape == (1, 40)


def test_tokens_of_images_and_videos_are_marked(processor):
    found = processor(
        text=[f"{IMAGE}{VIDEO}?", "-"],
        images=PICTURE,
        videos=CLIP[:2],
        return_mm_token_type_ids=True,
        return_text_replacement_offsets=True,
        return_tensors="pt",
    )
    ids, kinds = found["input_ids"], found["mm_token_type_ids"]
    of_images = (ids == processor.image_token_id) | (ids == processor.image_probe_token_id)
    of_videos = (ids == processor.video_token_id) | (ids == processor.video_probe_token_id)
    assert torch.equal(kinds, of_images.long() + 2 * of_videos.long()) and not kinds[1].any()
    text = processor.tokenizer.decode(ids[0])
    for offsets, token in zip(found["text_replacement_offsets"][0], (IMAGE, VIDEO), strict=True):
        assert text[slice(*offsets["new_span"])] == offsets["replacement"] and offsets["text"] == token
    counted = processor._get_num_multimodal_tokens(image_sizes=[(60, 90)], video_sizes=[(2, 56, 56)])
    assert counted["num_image_tokens"] == [int(of_images.sum())] == [4 * 6 + PROBES]
    assert counted["num_video_tokens"] == [int(of_videos.sum())]


# --- settings of one video


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"fps": 2}, [0, 0.5, 1, 1.5, 2, 2.5]),
        ({"num_frames": 3}, [0, 1, 2]),
        ({"fps": 5, "max_frames": 3}, [0, 1.4, 2.8]),
        ({"start": 1, "end": 2, "fps": 2}, [1, 1.5]),
        ({"start": 2}, [2]),
        ({"fps": None, "end": 2}, [0, 1]),
    ],
)
def test_a_video_of_a_chat_has_its_own_settings(processor, path, settings, expected):
    released = {"start": "start_time", "end": "end_time"}
    released = {released.get(name, name): value for name, value in settings.items()}
    parts = [
        {"type": "video", "video": path, **settings},
        {"type": "video", "path": path, **settings},
        {"type": "video", "video": {"path": path, **settings}},
        {"type": "video", "video": {"video_path": path, **released}},
    ]
    for part in parts:
        assert times(processor, chat(processor, part)) == expected, part
    # those of one do not count for the others, and go before those of the call
    messages = [{"role": "user", "content": [parts[0], {"type": "video", "video": path}]}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    assert times(processor, processor.apply_chat_template(messages, **options)) == [*expected, 0, 1, 2]
    if settings.get("fps"):
        assert times(processor, chat(processor, parts[0], fps=1)) == expected


def test_the_image_of_the_released_form(processor, tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    found = chat(processor, {"type": "image", "image": {"image_path": str(tmp_path / "a.png")}})
    assert torch.equal(found["pixel_values"], of_image(processor)["pixel_values"])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            {"type": "video", "video": "a.mp4", "nframes": 3},
            "of the type video has .* got 'nframes': did you mean 'num_",
        ),
        ({"type": "video", "vidoe": "a.mp4"}, "got 'vidoe': did you mean 'video'"),
        ({"type": "video", "video": "a.mp4", "url": "b.mp4"}, "has 'video' and 'url': give one of them"),
        ({"type": "video", "video": {"video_path": "a.mp4", "fsp": 1}}, "got 'fsp': did you mean 'fps'"),
        ({"type": "video", "video": {"path": "a.mp4", "fps": 1}, "fps": 2}, "a video has 'fps' twice"),
        ({"type": "video", "video": {"path": "a.mp4", "start_time": 1}, "start": 2}, "a video has 'start' twice"),
        ({"type": "video", "video": {"path": "a.mp4", "video_path": "b.mp4"}}, "a video has 'path' twice"),
        ({"type": "video", "video": {"fps": 1}}, "a part of a video needs a path"),
        ({"type": "video", "video": "a.mp4", "start": 3, "end": 2}, "start and end are seconds"),
        ({"type": "video", "video": "a.mp4", "fps": 0}, "fps must be a number above 0"),
        ({"type": "video", "video": "a.mp4", "fps": 1, "num_frames": 3}, "num_frames and fps are both given"),
        (
            {"type": "video", "video": "a.mp4", "max_frames": 9, "num_frames": 3},
            "num_frames and max_frames are both given",
        ),
        ({"type": "image", "image": "a.png", "fps": 3}, "content of the type image has .* got 'fps'"),
        ({"type": "image", "image": {"path": "a.png"}}, "an image has image_path, got 'path'"),
        ({"type": "text", "text": "a", "txt": "b"}, "of the type text has type, text, got 'txt': did you mean 'text'"),
    ],
)
def test_parts_with_names_that_are_unknown_or_given_twice(processor, part, message):
    with pytest.raises(ValueError, match=message):
        chat(processor, part)


def test_a_message_has_a_role_and_content(processor):
    messages = [{"role": "user", "content": "What?", "video": "a.mp4"}]
    with pytest.raises(ValueError, match="a message has role, content, got 'video'"):
        processor.apply_chat_template(messages, tokenize=True)
    # a template of the user's own may use more
    template = "{% for message in messages %}{{ message.name }}{% endfor %}"
    assert processor.apply_chat_template([{"role": "user", "content": "", "name": "A"}], template) == "A"


# --- what would have no effect


WITHOUT_USE = [
    ({"do_center_crop": True}, "do_center_crop=True"),
    ({"crop_size": {"height": 28, "width": 28}}, "crop_size="),
    ({"do_pad": True}, "do_pad=True"),
    ({"do_convert_rgb": False}, "do_convert_rgb=False"),
    ({"data_format": "channels_last"}, "data_format='channels_last'"),
    ({"device": "cuda"}, "device='cuda'"),
]


@pytest.mark.parametrize(("options", "message"), WITHOUT_USE)
def test_options_without_use_are_refused(processor, options, message):
    calls = [
        lambda: processor(text="a", **options),
        lambda: DnAVideoLlama3VideoProcessor()(CLIP[:2], **options),
    ]
    if "do_convert_rgb" not in options:
        calls.append(lambda: DnAVideoLlama3ImageProcessor()(PICTURE, **options))
    if not options.keys() & {"do_center_crop", "crop_size"}:
        calls.append(lambda: DnATimesformerVideoProcessor()(CLIP, **options))
    for call in calls:
        with pytest.raises(ValueError, match=f"has no use for {message}"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_pair": "b"}, "has no use for text_pair"),
        ({"is_split_into_words": True}, "has no use for is_split_into_words"),
        ({"return_overflowing_tokens": True}, "has no use for return_overflowing_tokens"),
        ({"audio_kwargs": {"sampling_rate": 1}}, "the model does not hear"),
        ({"max_pixel": 3}, "has no option 'max_pixel': did you mean 'max_pixels'"),
        ({"images_kwargs": {"fps": 3}}, "images_kwargs of DnAVideoLlama3Processor has no option 'fps'"),
        ({"common_kwargs": {"padding": True}}, "common_kwargs of DnAVideoLlama3Processor has no option 'padding'"),
        ({"size": 224}, "size must be {'shortest_edge': pixels, 'longest_edge': pixels}"),
        ({"size": {"height": 3, "width": 3}}, "size must be .*, got height, width"),
        ({"fps": "fast"}, "field 'fps'"),
        ({"video_metadata": None, "videos_kwargs": {"video_metadata": None}}, "'video_metadata' is given twice"),
    ],
)
def test_options_that_cannot_be_honoured(processor, options, message):
    with pytest.raises(ValueError, match=message):
        processor(text=f"{IMAGE}{VIDEO}", images=PICTURE, videos=CLIP[:2], **options)


# --- the TimeSformer


def test_fps_of_the_timesformer(path):
    process = DnATimesformerVideoProcessor(do_normalize=False, do_rescale=False, do_resize=False, do_center_crop=False)
    frames = np.stack([numbered(k) for k in range(30)])
    for video, known in ((path, None), (frames, {"fps": 10})):
        found = process(video, fps=2, video_metadata=known, return_metadata=True)
        assert numbers_of(found.pixel_values[0].permute(0, 2, 3, 1).byte().numpy()) == [0, 5, 10, 15, 20, 25]
        assert found["video_metadata"][0].frames_indices == [0, 5, 10, 15, 20, 25]
        assert found["video_metadata"][0].fps == pytest.approx(10)
        assert process(video, fps=10, video_metadata=known).pixel_values.shape[1] == 30
    # one frame in two seconds
    some = {"fps": 10, "total_num_frames": 600, "frames_indices": list(range(0, 600, 20))}
    found = process(frames, fps=0.25, video_metadata=some, return_metadata=True)["video_metadata"][0]
    assert found.frames_indices == list(range(0, 600, 40)) and found.timestamps[:3] == [0, 4, 8]
    for video, known in ((path, None), (frames, {"fps": 10})):
        with pytest.raises(ValueError, match="it has 10 frames a second, fewer than fps=20"):
            process(video, fps=20, video_metadata=known)
    with pytest.raises(ValueError, match="fps needs video_metadata"):
        process(frames, fps=2)
    with pytest.raises(ValueError, match="num_frames and fps are both given"):
        process(frames, fps=2, num_frames=3)


def test_a_window_counts_in_the_frame_rate_that_is_known():
    process = DnATimesformerVideoProcessor(sampling="centered", sampling_rate=2, num_frames=4)
    assert process(CLIP, return_metadata=True)["video_metadata"][0].frames_indices == [12, 14, 16, 18]
    found = process(CLIP, video_metadata={"fps": 90}, return_metadata=True)["video_metadata"][0]
    assert found.frames_indices == [6, 12, 18, 24]
