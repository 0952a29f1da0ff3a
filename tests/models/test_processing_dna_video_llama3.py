"""The processor of the video language model: what stands for images and videos, what is learned, what is refused."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from dna_hf.models import (
    DnATimesformerVideoProcessor,
    DnAVideoLlama3Config,
    DnAVideoLlama3ForConditionalGeneration,
    DnAVideoLlama3ImageProcessor,
    DnAVideoLlama3Processor,
    DnAVideoLlama3VideoProcessor,
)
from tests.kit.fresh_process import run_fresh
from tests.kit.models import moved
from tests.kit.videos import write_video


PROBES = 3
IMAGE, VIDEO, IMAGE_PROBE, VIDEO_PROBE = "<|image_pad|>", "<|video_pad|>", "<|image_probe|>", "<|video_probe|>"
CODE = {
    "chat_dna_video_llama3.py",
    "image_depth.py",
    "image_processing_dna_video_llama3.py",
    "placeholders_dna_video_llama3.py",
    "processing_dna_video_llama3.py",
    "processing_options.py",
    "video_decoding.py",
    "video_inputs.py",
    "video_metadata.py",
    "video_processing_dna_video_llama3.py",
}
# of the frames and images below, 4 x 4 tokens of 2 x 2 patches and 4 x 5 of one patch
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (56, 70, 3), dtype=np.uint8))
CLIP = np.random.default_rng(1).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)
PICTURE_TEXT = IMAGE * 20 + "\n" + IMAGE_PROBE * PROBES + "\n"
CLIP_TEXT = ",".join(f"Time {k}.0s:" + VIDEO * 16 for k in range(3)) + "\n" + VIDEO_PROBE * PROBES + "\n"


def byte_tokenizer(added=("<|im_start|>", "<|im_end|>", "<|endoftext|>")):
    """One token for each byte: of texts one after another, the tokens come one after another."""
    vocabulary = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>")


def make_processor(tokenizer=None, **options):
    return DnAVideoLlama3Processor(
        DnAVideoLlama3ImageProcessor(),
        tokenizer or byte_tokenizer(),
        DnAVideoLlama3VideoProcessor(),
        **{"num_probes": PROBES} | options,
    )


@pytest.fixture(scope="module")
def processor():
    return make_processor()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """2.5 seconds at 30 frames per second."""
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4", 75)


def text(words):
    return {"type": "text", "text": words}


def image(picture=PICTURE):
    return {"type": "image", "image": picture}


def video(clip=CLIP):
    return {"type": "video", "video": clip}


def user(*content):
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else list(content)}


def assistant(words):
    return {"role": "assistant", "content": words}


def chat(processor, messages, **options):
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"} | options
    return processor.apply_chat_template(messages, **options)


def written(processor, inputs):
    """The texts that the tokens stand for, padding left out."""
    return [
        processor.tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]


# --- sequences


def test_text_of_a_conversation(processor):
    messages = [
        {"role": "system", "content": "Be brief."},
        user(video(), image(), text("What is it?")),
        assistant([text("A video.")]),
        user("Sure?"),
    ]
    inputs = chat(processor, messages, add_generation_prompt=True)
    expected = (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        f"<|im_start|>user\n{CLIP_TEXT}{PICTURE_TEXT}What is it?<|im_end|>\n"
        "<|im_start|>assistant\nA video.<|im_end|>\n"
        "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert written(processor, inputs) == [expected]
    assert {name: (tuple(value.shape), value.dtype) for name, value in inputs.items()} == {
        "input_ids": (tuple(inputs["input_ids"].shape), torch.int64),
        "attention_mask": (tuple(inputs["input_ids"].shape), torch.int64),
        "pixel_values": ((20, 588), torch.float32),
        "image_grid_thw": ((1, 3), torch.int64),
        "image_merge_sizes": ((1,), torch.int64),
        "pixel_values_videos": ((3 * 64, 588), torch.float32),
        "video_grid_thw": ((1, 3), torch.int64),
        "video_merge_sizes": ((1,), torch.int64),
    }
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 5]] and inputs["video_grid_thw"].tolist() == [[3, 8, 8]]
    assert inputs["image_merge_sizes"].tolist() == [1] and inputs["video_merge_sizes"].tolist() == [2]
    assert torch.equal(inputs["pixel_values_videos"], processor.video_processor(CLIP)["pixel_values_videos"])
    plain = processor.image_processor(PICTURE, return_tensors="pt")["pixel_values"]
    assert torch.equal(inputs["pixel_values"], plain)


def test_text_alone(processor):
    inputs = chat(processor, [user("Hello?")])
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert written(processor, inputs) == ["<|im_start|>user\nHello?<|im_end|>\n"]
    assert chat(processor, [user(text("Hello?"))])["input_ids"].tolist() == inputs["input_ids"].tolist()


@pytest.mark.parametrize(
    ("flags", "of_clip", "of_picture"),
    [
        ({"include_visual_probes": False}, CLIP_TEXT.partition("\n")[0] + "\n", IMAGE * 20 + "\n"),
        ({"include_visual_tokens": False}, VIDEO_PROBE * PROBES + "\n", IMAGE_PROBE * PROBES + "\n"),
        ({"num_probes": 1}, CLIP_TEXT.replace(VIDEO_PROBE * PROBES, VIDEO_PROBE), IMAGE * 20 + f"\n{IMAGE_PROBE}\n"),
    ],
)
def test_flags(flags, of_clip, of_picture):
    process = make_processor(**flags)
    inputs = chat(process, [user(video(), image(), text("What?"))])
    assert written(process, inputs) == [f"<|im_start|>user\n{of_clip}{of_picture}What?<|im_end|>\n"]
    assert inputs["pixel_values"].shape == (20, 588) and inputs["pixel_values_videos"].shape == (192, 588)


def test_times_of_a_file(processor, path):
    for source in (path, str(path)):
        words = written(processor, chat(processor, [user(video(source), text("?"))], fps=2, max_frames=180))[0]
        assert [part.partition("s:")[0] for part in words.split("Time ")[1:]] == ["0.0", "0.5", "1.0", "1.5", "2.0"]
    part = video({"path": path, "start": 1.25, "end": 2.4})
    words = written(processor, chat(processor, [user(part, text("?"))], processor_kwargs={"fps": 3}))[0]
    found = [part.partition("s:")[0] for part in words.split("Time ")[1:]]
    assert found == [f"{time:.1f}" for time in (1.25, 1.25 + 1 / 3, 1.25 + 2 / 3, 2.25)]
    words = written(processor, chat(processor, [user(video(path), text("?"))], fps=10, max_frames=3))[0]
    assert [part.partition("s:")[0] for part in words.split("Time ")[1:]] == ["0.0", "1.2", "2.4"]


def test_several_visuals_keep_their_order(processor):
    small = PICTURE.resize((56, 56))
    messages = [user(image(), text("and"), image(small), text("?")), assistant("Yes."), user(image(), text("now?"))]
    inputs = chat(processor, messages)
    of_small = IMAGE * 16 + "\n" + IMAGE_PROBE * PROBES + "\n"
    assert written(processor, inputs)[0].count(f"{PICTURE_TEXT}and{of_small}?<|im_end|>") == 1
    assert inputs["image_grid_thw"].tolist() == [[1, 4, 5], [1, 4, 4], [1, 4, 5]]
    parts = inputs["pixel_values"].split([20, 16, 20])
    assert torch.equal(parts[0], parts[2]) and not torch.equal(parts[0][:16], parts[1])


def test_counts_of_tokens_are_those_of_the_grids(processor):
    clips = [CLIP, CLIP[:2, :60, :100]]
    inputs = chat(processor, [[user(video(clips[0]), image(), video(clips[1]), text("?"))], [user("-")]])
    ids, counts = processor.token_ids(), {}
    for name, token_id in ids.items():
        counts[name] = int((inputs["input_ids"] == token_id).sum())
    grids, merges = inputs["video_grid_thw"], inputs["video_merge_sizes"]
    assert counts["video_token_id"] == int((grids.prod(-1) // merges**2).sum())
    assert counts["image_token_id"] == int(inputs["image_grid_thw"].prod())
    assert (counts["video_probe_token_id"], counts["image_probe_token_id"]) == (2 * PROBES, PROBES)


def test_the_budget_is_shared_by_all_of_a_sample(processor):
    generator = np.random.default_rng(0)
    for number in range(12):
        frames = int(generator.integers(1, 6))
        sides = generator.integers(30, 600, 4)
        clip = np.zeros((frames, *sides[:2], 3), np.uint8)
        picture = Image.new("RGB", tuple(int(side) for side in sides[2:]))
        budget = int(generator.integers(16 * (frames + 2), 600))
        messages = [user(video(clip), image(picture), image(PICTURE), text("?"))]
        inputs = chat(processor, [messages, messages] if number == 0 else messages, max_visual_tokens=budget)
        ids = inputs["input_ids"][0]
        count = sum(int((ids == processor.token_ids()[name]).sum()) for name in ("image_token_id", "video_token_id"))
        assert count <= budget
        # each has its share
        share = budget / (frames + 2)
        per_frame = inputs["video_grid_thw"][0, 1:].prod() // 4
        assert per_frame <= share and (inputs["image_grid_thw"].prod(-1) <= share).all()
    assert chat(processor, messages, max_visual_tokens=16 * (frames + 2))["image_grid_thw"].prod(-1).max() <= 16
    with pytest.raises(ValueError, match=f"^{frames + 2} images or frames of at least 16 tokens each do not fit"):
        chat(processor, messages, max_visual_tokens=16 * (frames + 2) - 1)


def test_the_default_budget_is_that_of_the_video_processor():
    process = make_processor()
    large = Image.new("RGB", (600, 600))
    assert process.video_processor.max_visual_tokens == 16384
    assert process.image_processor.size["longest_edge"] == 16384 * 14**2
    assert chat(process, [user(image(large), text("?"))])["image_grid_thw"].tolist() == [[1, 43, 43]]
    process.video_processor.max_visual_tokens = 100
    assert chat(process, [user(image(large), text("?"))])["image_grid_thw"].tolist() == [[1, 10, 10]]
    # tokens of 2 x 2 patches
    halved = chat(process, [user(image(large), text("?"))], processor_kwargs={"images_kwargs": {"merge_size": 2}})
    assert halved["image_grid_thw"].tolist() == [[1, 20, 20]] and halved["image_merge_sizes"].tolist() == [2]
    assert written(process, halved)[0].count(IMAGE) == 100
    process.image_processor.size["longest_edge"] = 8 * 8 * 14**2
    assert chat(process, [user(image(large), text("?"))])["image_grid_thw"].tolist() == [[1, 8, 8]]


def test_token_compression(processor):
    clip = np.concatenate([CLIP[:1], CLIP[:1], CLIP[1:2]])
    inputs = chat(processor, [user(video(clip), image(), text("?"))], use_token_compression=True)
    mask = inputs["video_compression_mask"]
    assert mask.dtype == torch.bool and mask.view(3, 16).sum(1).tolist() == [16, 1, 16]
    words = written(processor, inputs)[0]
    assert f"Time 0.0s:{VIDEO * 16},Time 1.0s:{VIDEO},Time 2.0s:{VIDEO * 16}\n{VIDEO_PROBE * PROBES}\n" in words
    assert "video_compression_mask" not in chat(processor, [user(video(clip), text("?"))])


# --- batches


def test_batches_are_padded_on_either_side(processor):
    conversations = [
        [user(video(), text("What?")), assistant("A clip.")],
        [user("Hi"), assistant("Ho.")],
        [user(image(), image(), text("And these?")), assistant("Two.")],
    ]
    alone = [chat(processor, messages) for messages in conversations]
    for side in ("left", "right"):
        batch = chat(processor, conversations, padding_side=side)
        assert written(processor, batch) == [written(processor, one)[0] for one in alone]
        lengths = batch["attention_mask"].sum(1)
        edge = batch["attention_mask"][:, 0 if side == "left" else -1]
        assert edge.tolist() == (lengths == lengths.max()).long().tolist()
        assert torch.equal(batch["pixel_values"], alone[2]["pixel_values"])
        assert torch.equal(batch["pixel_values_videos"], alone[0]["pixel_values_videos"])
    process = make_processor(tokenizer=byte_tokenizer())
    process.tokenizer.padding_side = "left"
    assert chat(process, conversations)["attention_mask"][1, 0] == 0


def test_visuals_of_texts_in_lists_of_every_kind(processor):
    texts = [f"{IMAGE}\nA", "B", f"{IMAGE}{VIDEO}{IMAGE}"]
    pictures = [PICTURE, PICTURE.resize((56, 56)), PICTURE.rotate(90)]
    expected = processor(text=texts, images=pictures, videos=CLIP, return_tensors="pt")
    nested = {"images": [pictures[:1], [], pictures[1:]], "videos": [[], [], [CLIP]]}
    for given in (nested, {"images": tuple(pictures), "videos": [list(CLIP)]}, {"images": pictures, "videos": [CLIP]}):
        found = processor(text=texts, return_tensors="pt", **given)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    one = processor(text=f"{IMAGE}\nA", images=PICTURE)
    assert one["input_ids"] == [expected["input_ids"][0][expected["attention_mask"][0].bool()].tolist()]


def test_images_of_every_kind_are_equal(processor, tmp_path):
    PICTURE.save(tmp_path / "a.png")
    pixels = np.array(PICTURE)
    expected = chat(processor, [user(image(), text("?"))])
    kinds = [tmp_path / "a.png", str(tmp_path / "a.png"), pixels, torch.from_numpy(pixels), pixels.transpose(2, 0, 1)]
    for kind in [*kinds, PICTURE.convert("RGBA")]:
        found = chat(processor, [user(image(kind), text("?"))])
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    by_url = [{"role": "user", "content": [{"type": "image", "url": str(tmp_path / "a.png")}, text("?")]}]
    assert torch.equal(chat(processor, by_url)["pixel_values"], expected["pixel_values"])
    as_numpy = chat(processor, [user(image(), video(), text("?"))], return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in as_numpy.values())
    assert np.array_equal(as_numpy["pixel_values"], expected["pixel_values"].numpy())


# --- what is learned


def with_roles(processor, messages, seen):
    """Ids and mask of a conversation, part by part."""
    ids, mask = [], []
    for message in messages:
        body = "".join(
            part["text"] if part["type"] == "text" else seen[part["type"]]
            for part in ([text(message["content"])] if isinstance(message["content"], str) else message["content"])
        )
        learned = int(message["role"] == "assistant")
        parts = [(f"<|im_start|>{message['role']}\n", 0), (f"{body}<|im_end|>", learned), ("\n", 0)]
        for words, weight in parts:
            tokens = processor.tokenizer(words)["input_ids"]
            ids += tokens
            mask += [weight] * len(tokens)
    return ids, mask


CONVERSATIONS = [
    [
        {"role": "system", "content": "The assistant says little."},
        user(video(), text("What happens?")),
        assistant("A door\nopens."),
        user(image(), text("And here?"), video()),
        assistant([text("assistant "), text("<3 \n")]),
        user("Why?"),
        assistant(""),
    ],
    [user("Hi"), assistant("Ho.")],
    [user(image(), text("?")), assistant("A picture."), user(text("Sure?")), assistant("Yes.")],
]


@pytest.mark.parametrize("side", ["left", "right"])
def test_assistant_mask(processor, side):
    options = {"return_assistant_tokens_mask": True, "padding_side": side}
    seen = {"image": PICTURE_TEXT, "video": CLIP_TEXT}
    batch = chat(processor, CONVERSATIONS, **options)
    assert batch["assistant_masks"].shape == batch["input_ids"].shape and "offset_mapping" not in batch
    for number, messages in enumerate(CONVERSATIONS):
        ids, mask = with_roles(processor, messages, seen)
        kept = batch["attention_mask"][number].bool()
        assert batch["input_ids"][number][kept].tolist() == ids
        assert batch["assistant_masks"][number][kept].tolist() == mask
        assert not batch["assistant_masks"][number][~kept].any()
        alone = chat(processor, messages, **options)
        assert alone["assistant_masks"].tolist() == [mask]


def test_assistant_mask_of_a_real_tokenizer(shared_data):
    processor = make_processor(AutoTokenizer.from_pretrained(shared_data / "smollm2-tokenizer"))
    assert processor.token_ids() == {
        name: 49152 + place
        for place, name in enumerate(
            ("image_token_id", "video_token_id", "image_probe_token_id", "video_probe_token_id")
        )
    }
    for side in ("left", "right"):
        batch = chat(processor, CONVERSATIONS, return_assistant_tokens_mask=True, padding_side=side)
        learned = [
            processor.decode(ids[mask.bool()])
            for ids, mask in zip(batch["input_ids"], batch["assistant_masks"], strict=True)
        ]
        assert learned == [
            "A door\nopens.<|im_end|>assistant <3 \n<|im_end|><|im_end|>",
            "Ho.<|im_end|>",
            "A picture.<|im_end|>Yes.<|im_end|>",
        ]
        assert f"user\n{CLIP_TEXT}What happens?<|im_end|>" in written(processor, batch)[0]


def test_offsets_count_the_characters_of_what_was_given(processor):
    given = f"a{VIDEO}\nbc{IMAGE}é"
    found = processor(text=given, images=PICTURE, videos=CLIP, return_offsets_mapping=True)
    ids, offsets = found["input_ids"][0], found["offset_mapping"][0]
    assert len(ids) == len(offsets) and offsets == sorted(offsets)
    runs = [pair for place, pair in enumerate(offsets) if pair != offsets[place - 1] or not place]
    assert [given[start:end] for start, end in runs] == ["a", VIDEO, "\n", "b", "c", IMAGE, "é"]


# --- what is refused


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "stream", "content": "x"}], "unknown role 'stream': use one of system, user, assistant"),
        ([{"content": "x"}], "unknown role None"),
        ([{"role": "user"}], "a message has a role and content"),
        ([{"role": "user", "content": None}], "a message has a role and content"),
        (["x"], "a message has a role and content"),
        ([], "a conversation is a list of messages"),
        ([[]], "a conversation is a list of messages"),
        ("hello", "a conversation is a list of messages"),
        ([user({"type": "audio", "audio": "a.wav"})], "unknown content .* use one of the types text, image"),
        ([user({"type": "text"})], "content of the type text needs a text"),
        ([{"role": "system", "content": [image()]}], "a message of the system holds image: only those of the user"),
        ([{"role": "assistant", "content": [video()]}], "a message of the assistant holds video"),
        ([user(f"What is {VIDEO}?")], r"sample 0 has 1 <\|video_pad\|> but 0 videos"),
        ([user(image(), text(f"What is {IMAGE}?"))], r"sample 0 has 2 <\|image_pad\|> but 1 images"),
        ([user(f"What is {VIDEO_PROBE}?")], r"the text holds '<\|video_probe\|>'"),
        ([user({"type": "image"}, text("?"))], r"sample 0 has 1 <\|image_pad\|> but 0 images"),
        ([user(image("missing.png"))], r"^cannot read image 'missing\.png': there is no such file\.$"),
        ([user(image("https://example.org/a.png"))], "^cannot read image 'https.*a.png': HF_HUB_OFFLINE=1 forbids"),
        ([user(image(5))], "an image is a path, a URL, a PIL image or an array, got int"),
        ([user(image(np.full((30, 30, 3), 300)))], r"an image has bytes from 0 to 255 .*, got torch\.int64 from 300"),
        ([user(image(np.full((30, 30, 3), -0.1)))], r"in \[0, 1\] or \[0, 255\], got torch\.float64 from -0\.1"),
        ([user(image(np.zeros((30, 30), np.uint8)))], r"an image is \(height, width, channels\)"),
        ([user(video(PICTURE))], "a video has a list of frames, got one image"),
        ([user(video("missing.mp4"))], "^cannot read video 'missing.mp4': no such file"),
    ],
)
def test_conversations_that_are_refused(processor, messages, message):
    with pytest.raises(ValueError, match=message):
        chat(processor, messages)


def test_damaged_images_are_named(processor, tmp_path):
    PICTURE.save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    (tmp_path / "text.png").write_text("no image")
    for name in ("cut.png", "text.png"):
        with pytest.raises(ValueError, match=rf"^cannot read image '.*{name}': "):
            chat(processor, [user(image(tmp_path / name))])


def test_the_template_alone_refuses_unknown_roles(processor):
    with pytest.raises(Exception, match="unknown role: stream"):
        processor.tokenizer.apply_chat_template(
            [{"role": "stream", "content": "x"}], chat_template=processor.chat_template
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": [f"{IMAGE}A", "B"], "images": [PICTURE] * 2}, r"sample 1 has 0 <\|image_pad\|> but 1 images"),
        ({"text": [f"{IMAGE}A", IMAGE], "images": [PICTURE]}, r"sample 1 has 1 <\|image_pad\|> but 0 images"),
        ({"text": ["A", IMAGE], "images": [[PICTURE], []]}, r"sample 0 has 0 <\|image_pad\|> but 1 images"),
        ({"text": None, "images": PICTURE}, "text must be a string or a list of strings, got None"),
        ({"text": [["A"]]}, "text must be a string or a list of strings"),
        (
            {"text": VIDEO, "videos": 5},
            "a video is a path, an array or tensor of frames, or a list of images, got int",
        ),
        ({"text": IMAGE, "images": [5]}, "an image is a path, a URL, a PIL image or an array, got int"),
        ({"text": "A", "audio": np.zeros(9)}, "the model does not hear"),
        ({"text": "A", "num_frame": 8}, "Processor has no option 'num_frame': did you mean 'num_frames'"),
        ({"text": "A", "num_frames": 8, "fps": 2}, "num_frames and fps are both given"),
        ({"text": "A", "videos_kwargs": {"padding": True}}, "DnAVideoLlama3Processor has no option 'padding'"),
        ({"text": "A", "fps": 2, "videos_kwargs": {"fps": 1}}, "'fps' is given twice"),
        ({"text": "A", "fps": 0}, "fps must be a number above 0"),
    ],
)
def test_inputs_that_are_refused(processor, given, message):
    with pytest.raises(ValueError, match=message):
        processor(**given)


def test_truncation_never_cuts_visuals(processor):
    conversations = [[user("Hi")], [user(image(), video(), text("What is " + "so " * 100))]]
    whole = chat(processor, conversations[1])["input_ids"].shape[1]
    needed = len(processor.tokenizer("<|im_start|>user\n" + PICTURE_TEXT + CLIP_TEXT.rstrip("\n"))["input_ids"])
    cut = chat(processor, conversations, truncation=True, max_length=needed)
    assert cut["input_ids"].shape == (2, needed) and needed < whole
    lost = {needed - 1: f"2 of 3 {VIDEO_PROBE}", needed - PROBES - 2: f"47 of 48 {VIDEO}", 20: f"14 of 20 {IMAGE}"}
    for length, what in lost.items():
        with pytest.raises(ValueError, match=f"^sample 1 is cut: {re.escape(what)} are left; raise max_length"):
            chat(processor, conversations, truncation=True, max_length=length)


def test_what_it_is_made_of():
    with pytest.raises(ValueError, match="are both False: set one of them"):
        make_processor(include_visual_tokens=False, include_visual_probes=False)
    for probes in (0, 1.5):
        with pytest.raises(ValueError, match="num_probes must be an integer of at least 1"):
            make_processor(num_probes=probes)
    with pytest.raises(ValueError, match=r"the tokenizer lacks <\|im_end\|>: add it as a special token, or give"):
        make_processor(
            PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"<|im_start|>": 0}, merges=[])))
        )
    parts = DnAVideoLlama3ImageProcessor(), byte_tokenizer(), DnAVideoLlama3VideoProcessor()
    with pytest.raises(TypeError, match="must be a DnAVideoLlama3VideoProcessor, got a DnAVideoLlama3ImageProcessor"):
        DnAVideoLlama3Processor(parts[2], parts[1], parts[0])
    with pytest.raises(TypeError, match="tokenizer"):
        DnAVideoLlama3Processor(parts[0], parts[0], parts[2])
    with pytest.raises(TypeError, match="must be a DnAVideoLlama3VideoProcessor, got a DnATimesformerVideoProcessor"):
        DnAVideoLlama3Processor(parts[0], parts[1], DnATimesformerVideoProcessor())


def test_tokens_that_are_there_are_kept():
    present = [IMAGE_PROBE, "<|im_start|>", "<|im_end|>", VIDEO, "<|endoftext|>"]
    tokenizer = byte_tokenizer(present)
    before = tokenizer.convert_tokens_to_ids([IMAGE_PROBE, VIDEO])
    process = make_processor(tokenizer)
    ids = process.token_ids()
    assert [ids["image_probe_token_id"], ids["video_token_id"]] == before
    assert len(set(ids.values())) == 4 and len(tokenizer) == 256 + 5 + 2
    assert make_processor(tokenizer).token_ids() == ids and len(tokenizer) == 256 + 5 + 2


def test_decoding(processor):
    ids = processor.tokenizer("A clip.<|im_end|>", return_tensors="pt")["input_ids"]
    assert processor.post_process_image_text_to_text(ids) == ["A clip."]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["A clip."]
    unfinished = [user("Hi"), assistant("Yes, ")]
    assert processor.apply_chat_template(unfinished, continue_final_message=True).endswith("assistant\nYes, ")


# --- saving and loading


def assert_same(first, second):
    messages = [user(video(), image(), text("?")), assistant("Yes.")]
    one, other = (chat(process, messages, return_assistant_tokens_mask=True) for process in (first, second))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_saved_and_loaded(tmp_path):
    process = make_processor(num_probes=5, include_visual_tokens=False)
    process.video_processor.max_visual_tokens = 70
    process.save_pretrained(tmp_path)
    assert {file.name for file in tmp_path.glob("*.py")} == CODE
    assert (tmp_path / "chat_template.jinja").read_text() == process.chat_template
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["auto_map"] == {"AutoProcessor": "processing_dna_video_llama3.DnAVideoLlama3Processor"}
    for loaded in (DnAVideoLlama3Processor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(loaded) is DnAVideoLlama3Processor
        assert (loaded.num_probes, loaded.include_visual_tokens, loaded.include_visual_probes) == (5, False, True)
        assert loaded.video_processor.max_visual_tokens == 70 and loaded.token_ids() == process.token_ids()
        assert_same(loaded, process)
    assert_same(pickle.loads(pickle.dumps(process)), process)


# arguments: the checkpoint, a video, what is expected
LOAD = """
import json
import sys
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

checkpoint, video, expected = sys.argv[1:]
expected = json.load(open(expected))
processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=True)
for part in (processor, processor.image_processor, processor.video_processor):
    assert type(part).__module__.startswith("transformers_modules."), type(part)
messages = [
    {"role": "user", "content": [{"type": "video", "video": video}, {"type": "text", "text": "What?"}]},
    {"role": "assistant", "content": "A clip."},
]
options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "fps": 2}
inputs = processor.apply_chat_template(messages, return_assistant_tokens_mask=True, **options)
assert inputs["input_ids"][0].tolist() == expected["ids"]
assert inputs["assistant_masks"][0].tolist() == expected["mask"]
assert abs(inputs["pixel_values_videos"].double().sum().item() - expected["sum"]) < 1e-3
ask = pipeline("image-text-to-text", checkpoint, trust_remote_code=True, device="cpu")
answers = ask(text=messages[:1], return_full_text=False, max_new_tokens=4, processor_kwargs={"fps": 2})
assert answers[0]["generated_text"] == expected["answer"], answers
processor.save_pretrained(checkpoint + "-again")
again = AutoProcessor.from_pretrained(checkpoint + "-again", trust_remote_code=True)
assert again.token_ids() == processor.token_ids()
assert "dna_hf" not in sys.modules and "torchvision" not in sys.modules
print("all is well")
"""


def test_checkpoint_answers_without_the_package(tmp_path, path):
    process = make_processor()
    text_config = {"model_type": "qwen2", "vocab_size": 300, "hidden_size": 16, "intermediate_size": 16}
    text_config |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    vision_config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision_config |= {"patch_size": 14, "num_probes": PROBES}
    torch.manual_seed(0)
    config = DnAVideoLlama3Config(text_config=text_config, vision_config=vision_config, **process.token_ids())
    model = moved(DnAVideoLlama3ForConditionalGeneration(config), 0.1)
    checkpoint = tmp_path / "checkpoint"
    model.save_pretrained(checkpoint)
    process.save_pretrained(checkpoint)
    messages = [user(video(path), text("What?")), assistant("A clip.")]
    inputs = chat(process, messages, fps=2, return_assistant_tokens_mask=True)
    prompt = chat(process, messages[:1], fps=2, add_generation_prompt=True)
    generated = model.generate(**prompt, max_new_tokens=4, do_sample=False)[:, prompt["input_ids"].shape[1] :]
    expected = {
        "ids": inputs["input_ids"][0].tolist(),
        "mask": inputs["assistant_masks"][0].tolist(),
        "sum": inputs["pixel_values_videos"].double().sum().item(),
        "answer": process.post_process_image_text_to_text(generated)[0],
    }
    (tmp_path / "expected.json").write_text(json.dumps(expected))
    assert "all is well" in run_fresh(LOAD, tmp_path, checkpoint, path, tmp_path / "expected.json")
    assert {file.name for file in (tmp_path / "checkpoint-again").glob("*.py")} == CODE
