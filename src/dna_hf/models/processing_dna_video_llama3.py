"""Processor of the DnA VideoLLaMA3: conversations with images and videos to the inputs of the model."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin, TextKwargs
from transformers.tokenization_utils_base import AddedToken

# from its module, which is there without torchvision; the name at the top level is not
from transformers.video_processing_utils import BaseVideoProcessor

from .image_processing_dna_video_llama3 import read_image
from .video_processing_dna_video_llama3 import SETTINGS, SampledVideo, check_budget, is_video


IMAGE_TOKEN = "<|image_pad|>"
VIDEO_TOKEN = "<|video_pad|>"
IMAGE_PROBE_TOKEN = "<|image_probe|>"
VIDEO_PROBE_TOKEN = "<|video_probe|>"
VISUAL_TOKENS = (IMAGE_TOKEN, VIDEO_TOKEN, IMAGE_PROBE_TOKEN, VIDEO_PROBE_TOKEN)
CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
KWARGS = {"text_kwargs": "text", "images_kwargs": "images", "videos_kwargs": "videos"}
ROLES = ("system", "user", "assistant")
CONTENT_TYPES = ("text", "image", "image_url", "video")

# ChatML; what the assistant says and its end of turn are marked for `return_assistant_tokens_mask`
CHAT_TEMPLATE = """\
{%- macro written(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'text' -%}
                {{- part.text -}}
            {%- elif part.type == 'image' -%}
                {{- '<|image_pad|>\\n' -}}
            {%- elif part.type == 'video' -%}
                {{- '<|video_pad|>\\n' -}}
            {%- else -%}
                {{- raise_exception('unknown type of content: ' ~ part.type) -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {%- if message.role not in ['system', 'user', 'assistant'] -%}
        {{- raise_exception('unknown role: ' ~ message.role) -}}
    {%- endif -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}
            {{- written(message.content) + '<|im_end|>' -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- written(message.content) + '<|im_end|>' -}}
    {%- endif -%}
    {{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


class DnAVideoLlama3Processor(ProcessorMixin):
    r"""
    Tokenizes text with images and videos: of each `<|image_pad|>` and `<|video_pad|>` it makes one such token for
    every visual token of the model, and as many `<|image_probe|>` or `<|video_probe|>` as the model has probes.

        Time 0.0s:<|video_pad|>...<|video_pad|>,Time 1.0s:<|video_pad|>...<|video_pad|>
        <|video_probe|>...<|video_probe|>

    Args:
        image_processor ([`DnAVideoLlama3ImageProcessor`]):
            Or transformers' own of VideoLLaMA3.
        tokenizer ([`PreTrainedTokenizerFast`]):
            With the tokens of ChatML. The four tokens above are added if it lacks them.
        video_processor ([`DnAVideoLlama3VideoProcessor`]):
            Its `max_visual_tokens` are those that all images and frames of a sample share evenly; times, probes and
            text come on top.
        chat_template (`str`, *optional*):
            Instead of ChatML.
        num_probes (`int`, *optional*, defaults to 16):
            Probes of the model.
        include_visual_tokens (`bool`, *optional*, defaults to `True`):
            Whether the sequence holds visual tokens and the times of frames.
        include_visual_probes (`bool`, *optional*, defaults to `True`):
            Whether the sequence holds probes.

    Raises:
        ValueError: for sequences with neither, `num_probes` below 1, or a tokenizer without the tokens of ChatML.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        video_processor: Any,
        chat_template: str | None = None,
        num_probes: int = 16,
        include_visual_tokens: bool = True,
        include_visual_probes: bool = True,
    ) -> None:
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template or CHAT_TEMPLATE)
        if not isinstance(num_probes, int) or num_probes < 1:
            raise ValueError(f"num_probes must be an integer of at least 1, got {num_probes!r}.")
        if not include_visual_tokens and not include_visual_probes:
            raise ValueError("include_visual_tokens and include_visual_probes are both False: set one of them.")
        self.num_probes = num_probes
        self.include_visual_tokens = include_visual_tokens
        self.include_visual_probes = include_visual_probes
        vocabulary = tokenizer.get_vocab()
        for token in () if chat_template else CHAT_TOKENS:
            if token not in vocabulary:
                raise ValueError(f"the tokenizer lacks {token}: add it as a special token, or give a chat_template.")
        missing = [token for token in VISUAL_TOKENS if token not in vocabulary]
        if missing:
            tokens = [AddedToken(token, special=True, normalized=False) for token in missing]
            tokenizer.add_tokens(tokens, special_tokens=True)
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        self.image_token_id, self.video_token_id, self.image_probe_token_id, self.video_probe_token_id = (
            tokenizer.convert_tokens_to_ids(list(VISUAL_TOKENS))
        )

    def token_ids(self) -> dict[str, int]:
        """The ids that the configuration of the model has to have."""
        names = ("image_token_id", "video_token_id", "image_probe_token_id", "video_probe_token_id")
        return {name: getattr(self, name) for name in names}

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """Check the class of a part; without torchvision, that of video processors has to be looked up here."""
        if argument_name != "video_processor":
            return super().check_argument_for_proper_class(argument_name, argument)
        # not the class itself: with published code, every file may be loaded more than once
        if not isinstance(argument, BaseVideoProcessor) or not hasattr(argument, "process_frames"):
            raise TypeError(
                f"video_processor must be a DnAVideoLlama3VideoProcessor, got a {type(argument).__name__}."
            )
        return BaseVideoProcessor

    def __call__(
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        audio: None = None,
        return_tensors: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Inputs of the model for one text or several.

        Args:
            images: images for the `<|image_pad|>` of the texts, in order: one image, a list, or a list for each text.
                An image is a path, a URL, a PIL image, or bytes (height, width, channels) or (channels, height,
                width).
            text: each `<|image_pad|>` and `<|video_pad|>` stands for an image or a video.
            videos: videos for the `<|video_pad|>` of the texts, as `images`; the video processor says what is a video.
            return_tensors: `"pt"` or `"np"`; then several texts are padded, unless `padding` says otherwise. Without
                it, token ids are lists, and images and videos tensors.
            options: options of the tokenizer, the image processor and the video processor, by name or in
                `text_kwargs`, `images_kwargs` and `videos_kwargs`.

        Returns:
            `input_ids` and `attention_mask` (texts, tokens); for images `pixel_values` (patches, 3 * patch_size ** 2),
            `image_grid_thw` (images, 3) and `image_merge_sizes` (images,); for videos `pixel_values_videos`,
            `video_grid_thw` and `video_merge_sizes`, and with `use_token_compression` the `video_compression_mask`.
            Offsets, with `return_offsets_mapping`, count characters of `text` as it was given.

        Raises:
            ValueError: if the text and the images and videos do not match, one of them cannot be read, they do not
                fit `max_visual_tokens`, an option is unknown, or truncation would cut visual tokens or probes.
        """
        if audio is not None:
            raise ValueError("the model does not hear: give no audio.")
        texts = [text] if isinstance(text, str) else list(text or [])
        if not texts or not all(isinstance(sample, str) for sample in texts):
            raise ValueError(f"text must be a string or a list of strings, got {text!r:.100}.")
        text_options, image_options, video_options = self._split_options(options)
        video_processor = self.video_processor.with_options(**video_options)
        samples = [
            self._process_sample(*visuals, image_options, video_processor)
            for visuals in zip(
                deal(texts, images, IMAGE_TOKEN, is_image), deal(texts, videos, VIDEO_TOKEN, is_video), strict=True
            )
        ]
        if return_tensors is not None and len(texts) > 1:
            text_options.setdefault("padding", True)
        data = self._tokenize(texts, samples, text_options) | self._batch(samples, video_processor)
        return BatchFeature(data, return_tensors, skip_tensor_conversion=["offset_mapping"])

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: list[dict[str, Any]] | list[list[dict[str, Any]]],
        chat_template: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Lay out conversations as text or inputs; the options of `__call__` may be given by name, too.

        With `add_generation_prompt` or `continue_final_message`, what `generate` goes on from, several conversations
        are padded on the left, unless `padding_side` says otherwise; else on the side of the tokenizer.

        Raises:
            ValueError: for a conversation that is none, an unknown role, or images and videos that are not the
                user's; and as `__call__`.
        """
        check_conversation(conversation)
        known = self._option_names()
        moved = {name: options.pop(name) for name in list(options) if name in known}
        call = (processor_kwargs or {}) | moved
        goes_on = options.get("add_generation_prompt") or options.get("continue_final_message")
        if goes_on and "padding_side" not in call and "padding_side" not in (call.get("text_kwargs") or {}):
            call["padding_side"] = "left"
        return super().apply_chat_template(conversation, chat_template, processor_kwargs=call, **options)

    def _option_names(self) -> dict[str, tuple[str, ...]]:
        """Names of options, and whose they are: `text`, `images` or `videos`."""
        owners: dict[str, tuple[str, ...]] = {}
        # the last two are other names of `size`
        hidden = {"text_pair", "return_tensors", "min_pixels", "max_pixels"}
        of_images = [name for name in self.image_processor.valid_kwargs.__annotations__ if name not in hidden]
        of_text = [name for name in TextKwargs.__annotations__ if name not in hidden]
        for owner, names in (("text", of_text), ("images", of_images), ("videos", SETTINGS)):
            for name in names:
                owners[name] = (*owners.get(name, ()), owner)
        return owners

    def _split_options(self, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Options of the tokenizer, the image processor and the video processor."""
        # offsets count characters of the text as it was given, so that nothing has to be shifted
        options = {name: value for name, value in options.items() if name != "return_text_replacement_offsets"}
        owners = self._option_names()
        parts: dict[str, dict[str, Any]] = {"text": {}, "images": {}, "videos": {}}
        given: list[tuple[str, Any, Iterable[str]]] = [
            (name, value, owners.get(name, ())) for name, value in options.items() if name not in KWARGS
        ]
        for kwargs, owner in KWARGS.items():
            for name, value in (options.get(kwargs) or {}).items():
                given.append((name, value, {owner} & set(owners.get(name, ()))))
        for name, value, takers in given:
            if not takers:
                raise ValueError(f"{type(self).__name__} has no option {name!r}.")
            for owner in takers:
                if name in parts[owner]:
                    raise ValueError(f"{name!r} is given twice, by name and in {owner}_kwargs: give it once.")
                parts[owner][name] = value
        return parts["text"], parts["images"], parts["videos"]

    def _process_sample(
        self, images: list[Any], videos: list[Any], image_options: dict[str, Any], video_processor: Any
    ) -> "_Sample":
        """Pixels, and the text to be put in, of the images and videos of one text."""
        read: list[SampledVideo] = [video_processor.read_video(video) for video in videos]
        count = len(images) + sum(len(video.frames) for video in read)
        check_budget(count, video_processor.max_visual_tokens, video_processor.min_visual_tokens)
        sample = _Sample([], [], [], [])
        for image in images:
            features = self._process_image(image, count, image_options, video_processor)
            tokens = int(features["image_grid_thw"].prod()) // int(features["image_merge_sizes"]) ** 2
            sample.images.append(features)
            sample.image_texts.append(self._expansion(IMAGE_TOKEN * tokens, IMAGE_PROBE_TOKEN))
        for video in read:
            patches, grid = video_processor.process_frames(video.frames, video_processor.pixels_per_frame(count))
            frame_tokens = [grid[1] * grid[2] // video_processor.merge_size**2] * grid[0]
            if video_processor.use_token_compression:
                frame_tokens = video_processor.compression_mask(patches, grid).sum(dim=1).tolist()
            times = (f"Time {time:.1f}s:" for time in video.timestamps)
            frames = (time + VIDEO_TOKEN * kept for time, kept in zip(times, frame_tokens, strict=True))
            sample.videos.append((patches, grid))
            sample.video_texts.append(self._expansion(",".join(frames), VIDEO_PROBE_TOKEN))
        return sample

    def _process_image(self, image: Any, count: int, options: dict[str, Any], video_processor: Any) -> BatchFeature:
        """Patches of one of `count` images and frames that share the tokens of a sample."""
        patch = options.get("patch_size") or self.image_processor.patch_size
        factor = patch * (options.get("merge_size") or self.image_processor.merge_size)
        size = options.get("size") or self.image_processor.size
        most = min(size["longest_edge"], video_processor.max_visual_tokens * factor**2 // count)
        least = min(max(size["shortest_edge"], video_processor.min_visual_tokens * factor**2), most)
        limits = {"shortest_edge": least, "longest_edge": most}
        return self.image_processor(read_image(image), **options | {"size": limits}, return_tensors="pt")

    def _expansion(self, tokens: str, probe: str) -> str:
        """What stands for an image or a video."""
        parts = [tokens] if self.include_visual_tokens else []
        return "\n".join(parts + ([probe * self.num_probes] if self.include_visual_probes else []))

    def _tokenize(self, texts: list[str], samples: list["_Sample"], options: dict[str, Any]) -> dict[str, Any]:
        """Token ids of the texts with all tokens of their images and videos."""
        expanded = [expand(*pair) for pair in zip(texts, samples, strict=True)]
        options.setdefault("return_token_type_ids", False)
        tokenized = dict(self.tokenizer([text for text, _ in expanded], **options))
        for number, (ids, (text, _)) in enumerate(zip(tokenized["input_ids"], expanded, strict=True)):
            for token, token_id in zip(VISUAL_TOKENS, self.token_ids().values(), strict=True):
                if (have := ids.count(token_id)) != (need := text.count(token)):
                    raise ValueError(
                        f"sample {number} is cut: {have} of {need} {token} are left; raise max_length, or lower "
                        "max_visual_tokens, fps or max_frames."
                    )
        if "offset_mapping" in tokenized:
            tokenized["offset_mapping"] = [
                given_offsets(offsets, spans, len(text))
                for offsets, (_, spans), text in zip(tokenized["offset_mapping"], expanded, texts, strict=True)
            ]
        return tokenized

    def _batch(self, samples: list["_Sample"], video_processor: Any) -> dict[str, torch.Tensor]:
        """Pixels of all samples."""
        data: dict[str, torch.Tensor] = {}
        images = [features for sample in samples for features in sample.images]
        for name in images[0] if images else ():
            data[name] = torch.cat([features[name] for features in images])
        videos = [video for sample in samples for video in sample.videos]
        return data | (video_processor.batch(videos) if videos else {})


@dataclass
class _Sample:
    """Pixels of the images and videos of one text, and what stands for each of them."""

    images: list[BatchFeature]
    image_texts: list[str]
    videos: list[tuple[torch.Tensor, tuple[int, int, int]]]
    video_texts: list[str]


def is_image(image: Any) -> bool:
    """Whether it may be one image: it is no list of images."""
    return not isinstance(image, list | tuple)


def deal(texts: list[str], visuals: Any, token: str, is_one: Callable[[Any], bool]) -> list[list[Any]]:
    """Images or videos of each text, one for each `token`.

    Raises:
        ValueError: if there are more or fewer.
    """
    counts = [text.count(token) for text in texts]
    if visuals is None:
        visuals = []
    given = list(visuals) if isinstance(visuals, list | tuple) and not is_one(visuals) else [visuals]
    if len(given) == len(texts) and all(isinstance(part, list | tuple) and not is_one(part) for part in given):
        dealt = [list(part) for part in given]
    else:
        places = iter(given)
        dealt = [list(islice(places, count)) for count in counts]
        dealt[-1] += places
    for number, (part, count) in enumerate(zip(dealt, counts, strict=True)):
        if len(part) != count:
            kind = "images" if token == IMAGE_TOKEN else "videos"
            raise ValueError(f"sample {number} has {count} {token} but {len(part)} {kind}: they must be as many.")
    return dealt


Span = tuple[int, int, int, int]


def expand(text: str, sample: _Sample) -> tuple[str, list[Span]]:
    """The text with all tokens of its images and videos, and where: first and last place in the new and the old text.

    Raises:
        ValueError: if the text has probes already.
    """
    for token in (IMAGE_PROBE_TOKEN, VIDEO_PROBE_TOKEN):
        if token in text:
            raise ValueError(f"the text holds {token!r}: the processor writes it, remove it from the text.")
    texts = {IMAGE_TOKEN: iter(sample.image_texts), VIDEO_TOKEN: iter(sample.video_texts)}
    pieces, spans, place, length = [], [], 0, 0
    for match in re.finditer("|".join(map(re.escape, texts)), text):
        pieces += [text[place : match.start()], next(texts[match.group()])]
        start = length + match.start() - place
        length, place = start + len(pieces[-1]), match.end()
        spans.append((start, length, *match.span()))
    return "".join([*pieces, text[place:]]), spans


def given_offsets(offsets: list[tuple[int, int]], spans: list[Span], length: int) -> list[tuple[int, int]]:
    """Offsets of tokens in the text that was given, of `length` characters, from those in the expanded one.

    The tokens of an image or a video have the offsets of what stood for it. Padding on the right stands at the end,
    so that the offsets never fall.
    """
    result, shift, number = [], 0, 0
    for start, end in offsets:
        while number < len(spans) and start >= spans[number][1]:
            shift = spans[number][3] - spans[number][1]
            number += 1
        if number < len(spans) and start >= spans[number][0]:
            result.append(spans[number][2:])
        elif end == 0 and result and result[-1][1]:
            result.append((length, length))
        else:
            # text and what was put in may share a token
            end = end if number == len(spans) else min(end, spans[number][0])
            result.append((start + shift, end + shift))
    return result


def check_conversation(conversation: Any) -> None:
    """
    Raises:
        ValueError: for a conversation that is none, an unknown role or type of content, or images and videos that are
            not the user's.
    """
    if not isinstance(conversation, list | tuple) or not conversation:
        raise ValueError(f"a conversation is a list of messages, got {conversation!r:.100}.")
    if isinstance(conversation[0], list | tuple):
        for one in conversation:
            check_conversation(one)
        return
    for message in conversation:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str | list | tuple):
            raise ValueError(f"a message has a role and content, text or a list of parts, got {message!r:.100}.")
        role, content = message.get("role"), message["content"]
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}: use one of {', '.join(ROLES)}.")
        for part in [] if isinstance(content, str) else content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind not in CONTENT_TYPES:
                raise ValueError(f"unknown content {part!r:.100}: use one of the types {', '.join(CONTENT_TYPES)}.")
            if kind != "text" and role != "user":
                raise ValueError(f"a message of the {role} holds {kind}: only those of the user may.")
            if kind == "video" and is_video([part.get("video")]):
                raise ValueError("a video has a list of frames, got one image: write it as an image.")
            if kind == "text" and not isinstance(part.get("text"), str):
                raise ValueError(f"content of the type text needs a text, got {part!r:.100}.")


__all__ = ["DnAVideoLlama3Processor"]
