"""Processor of the DnA VideoLLaMA3: conversations with images and videos to the inputs of the model."""

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.tokenization_utils_base import AddedToken

# from its module, which is there without torchvision; the name at the top level is not
from transformers.video_processing_utils import BaseVideoProcessor

from .chat_dna_video_llama3 import CHAT_TEMPLATE, read_conversations
from .image_processing_dna_video_llama3 import read_image, resized_sides
from .placeholders_dna_video_llama3 import (
    IMAGE_PROBE_TOKEN,
    IMAGE_TOKEN,
    VIDEO_PROBE_TOKEN,
    VIDEO_TOKEN,
    VISUAL_TOKENS,
    Sample,
    deal,
    given_offsets,
    is_image,
)
from .processing_options import check_names, check_without_use, pixel_limits
from .video_inputs import is_video
from .video_metadata import listed_metadata
from .video_processing_dna_video_llama3 import LIMITS, SampledVideo, check_budget


CHAT_TOKENS = ("<|im_start|>", "<|im_end|>")
# of the tokenizer: texts are strings, one row of tokens each, and all of it may be a placeholder
TEXT_WITHOUT_USE = (
    *("text_pair", "text_target", "text_pair_target", "is_split_into_words", "return_overflowing_tokens"),
    "sanitize_control_tokens",
)
OWNERS = {"text_kwargs": "text", "images_kwargs": "images", "videos_kwargs": "videos", "common_kwargs": "common"}


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

    # what stays as it is where tensors are asked for
    skip_tensor_conversion = ["offset_mapping", "text_replacement_offsets", "video_metadata"]

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
        # what `mm_token_type_ids` mark
        self.image_token_ids = [self.image_token_id, self.image_probe_token_id]
        self.video_token_ids = [self.video_token_id, self.video_probe_token_id]

    @property
    def unused_input_names(self) -> list[str]:
        """What the tokenizer may make, but the model does not take."""
        return ["token_type_ids"]

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

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: str | list[str] | None = None,
        videos: Any = None,
        **options: Any,
    ) -> BatchFeature:
        """Inputs of the model for one text or several.

        Args:
            images: images for the `<|image_pad|>` of the texts, in order: one image, a list, or a list for each text.
                An image is a path, a URL, a PIL image, or an array (height, width, channels) or (channels, height,
                width) of bytes or floating-point numbers, of which those in [0, 1] are not scaled again.
            text: each `<|image_pad|>` and `<|video_pad|>` stands for an image or a video.
            videos: videos for the `<|video_pad|>` of the texts, as `images`; the video processor says what is a video.
            options: options of the tokenizer, the image processor and the video processor, by name or in
                `text_kwargs`, `images_kwargs`, `videos_kwargs` and `common_kwargs`, as of every processor of
                transformers. What the tokenizer was made with, e.g. `padding` and `max_length`, counts where nothing
                is said. With `return_tensors`, `"pt"` or `"np"`, several texts are padded, unless `padding` says
                otherwise; without it, token ids are lists, and images and videos tensors. `video_metadata` has an
                entry for each video.

        Returns:
            `input_ids` and `attention_mask` (texts, tokens); for images `pixel_values` (patches, 3 * patch_size ** 2),
            `image_grid_thw` (images, 3) and `image_merge_sizes` (images,); for videos `pixel_values_videos`,
            `video_grid_thw` and `video_merge_sizes`, and with `use_token_compression` the `video_compression_mask`.
            With `return_mm_token_type_ids` the `mm_token_type_ids` (texts, tokens): 1 for tokens and probes of images,
            2 for those of videos; with `return_metadata` the `video_metadata` of each video. Offsets, with
            `return_offsets_mapping`, count characters of `text` as it was given; `text_replacement_offsets`, with
            `return_text_replacement_offsets`, those of the text with all placeholders.

        Raises:
            ValueError: if the text and the images and videos do not match, one of them cannot be read, they do not
                fit `max_visual_tokens`, an option is unknown or would have no effect, or truncation would cut visual
                tokens or probes.
        """
        if options.pop("audio", None) is not None:
            raise ValueError("the model does not hear: give no audio.")
        texts = [text] if isinstance(text, str) else list(text or [])
        if not texts or not all(isinstance(sample, str) for sample in texts):
            raise ValueError(f"text must be a string or a list of strings, got {text!r:.100}.")
        metadata = self._take_metadata(options)
        text_options, image_options, video_options = self._merged(options)
        return_tensors = text_options.pop("return_tensors", None)
        processors = self._video_processors(video_options)
        of_images = deal(texts, images, IMAGE_TOKEN, is_image)
        of_videos = deal(texts, videos, VIDEO_TOKEN, is_video)
        known = iter(listed_metadata(metadata, sum(map(len, of_videos))))
        samples = [
            self._process_sample(pictures, [(clip, next(known)) for clip in clips], image_options, *processors)
            for pictures, clips in zip(of_images, of_videos, strict=True)
        ]
        if return_tensors is not None and len(texts) > 1:
            text_options.setdefault("padding", True)
        data = self._tokenize(texts, samples, text_options) | self._batch(samples, processors[1])
        return BatchFeature(data, return_tensors, skip_tensor_conversion=self.skip_tensor_conversion)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: list[dict[str, Any]] | list[list[dict[str, Any]]],
        chat_template: str | None = None,
        processor_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Lay out conversations as text or inputs; the options of `__call__` may be given by name, too.

        A video may have settings of its own, `{"type": "video", "video": "a.mp4", "fps": 2, "start": 3, "end": 9}`:
        `fps`, `max_frames`, `num_frames`, and the seconds `start` and `end`. VideoLLaMA3's own form is read, too:
        `{"type": "video", "video": {"video_path": "a.mp4", "fps": 1, "max_frames": 180, "start_time": 3}}`.

        With `add_generation_prompt` or `continue_final_message`, what `generate` goes on from, several conversations
        are padded on the left, unless `padding_side` says otherwise; else on the side of the tokenizer.

        Raises:
            ValueError: for a conversation that is none, an unknown role or name, or images and videos that are not
                the user's; and as `__call__`.
        """
        own_template = (chat_template or self.chat_template) == CHAT_TEMPLATE
        conversation = read_conversations(conversation, own_template)
        known = {*self._option_names(), *OWNERS, "video_metadata"} - {"return_tensors", "sanitize_control_tokens"}
        moved = {name: options.pop(name) for name in list(options) if name in known}
        call = (processor_kwargs or {}) | moved
        goes_on = options.get("add_generation_prompt") or options.get("continue_final_message")
        if goes_on and "padding_side" not in call and "padding_side" not in (call.get("text_kwargs") or {}):
            call["padding_side"] = "left"
        return super().apply_chat_template(conversation, chat_template, processor_kwargs=call, **options)

    def _adjust_assistant_masks_indices(self, processed_dict: Any, generation_indices: Any) -> Any:
        """The offsets count the given text already, so that nothing has to be shifted."""
        processed_dict.pop("text_replacement_offsets", None)
        return super()._adjust_assistant_masks_indices(processed_dict, generation_indices)

    def _get_num_multimodal_tokens(
        self, image_sizes: Any = None, video_sizes: Any = None, **options: Any
    ) -> MultiModalData:
        """Numbers of tokens and probes of images and videos, each alone in its sample, without their pixels.

        Args:
            image_sizes: (height, width) of each image, in pixels.
            video_sizes: (frames, height, width) of each video, its chosen frames.
            options: options of `__call__`.

        Raises:
            ValueError: for videos with `use_token_compression`, whose tokens are counted by their pixels.
        """
        _, image_options, video_options = self._merged(options)
        shared, videos = self._video_processors(video_options)
        probes = self.num_probes if self.include_visual_probes else 0
        counts: dict[str, list[int]] = {}
        if image_sizes is not None:
            size = self._image_options(1, image_options, shared)["size"]
            patch, merge = self._patch_and_merge(image_options)
            limits = patch * merge, size["shortest_edge"], size["longest_edge"]
            sides = [resized_sides(height, width, *limits) for height, width in image_sizes]
            patches = [height // patch * (width // patch) for height, width in sides]
            tokens = [count // merge**2 * self.include_visual_tokens + probes for count in patches]
            counts |= {"num_image_tokens": tokens, "num_image_patches": patches}
        if video_sizes is not None:
            if videos.use_token_compression:
                raise ValueError("use_token_compression: the tokens of a video are counted by its pixels alone.")
            counts["num_video_tokens"] = [
                videos.tokens_of(*size, self._frame_pixels(size[0], size[0], shared, videos))
                * self.include_visual_tokens
                + probes
                for size in video_sizes
            ]
        return MultiModalData(**counts)  # type: ignore[arg-type]

    def _option_names(self) -> dict[str, set[str]]:
        """Names of options, and whose they are: `text`, `images` or `videos`."""
        owners: dict[str, set[str]] = {}
        parts = {kwargs: self.valid_processor_kwargs.__annotations__[kwargs] for kwargs in list(OWNERS)[:3]}
        for kwargs, part in (("images_kwargs", self.image_processor), ("videos_kwargs", self.video_processor)):
            parts[kwargs] = part.valid_kwargs
        for kwargs, names in parts.items():
            for name in names.__annotations__:
                owners.setdefault(name, set()).add(OWNERS[kwargs])
        # of the whole, in newer transformers
        for name in ("return_mm_token_type_ids", "return_text_replacement_offsets"):
            owners[name] = {"text"}
        owners.pop("video_metadata", None)
        return owners

    def _take_metadata(self, options: dict[str, Any]) -> Any:
        """What is known of the videos, out of the options."""
        nested = dict(options.get("videos_kwargs") or {})
        found = [part.pop("video_metadata") for part in (options, nested) if "video_metadata" in part]
        if len(found) > 1:
            raise ValueError("'video_metadata' is given twice, by name and in videos_kwargs: give it once.")
        if "videos_kwargs" in options:
            options["videos_kwargs"] = nested
        return found[0] if found else None

    def _merged(self, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Options of the tokenizer, the image processor and the video processor, as transformers merges them.

        Raises:
            ValueError: for an option that is unknown, given twice, of the wrong type, or would have no effect.
        """
        owners, owner = self._option_names(), type(self).__name__
        if options.pop("audio_kwargs", None):
            raise ValueError("the model does not hear: give no audio_kwargs.")
        flat = {name: value for name, value in options.items() if name not in OWNERS}
        check_names(owner, flat, owners)
        given: dict[str, Any] = dict(flat)
        for kwargs, part in OWNERS.items():
            nested = options.get(kwargs) or {}
            # what is common goes to all of them
            own = [name for name in owners if part in owners[name] or (part == "common" and len(owners[name]) == 3)]
            check_names(f"{kwargs} of {owner}", nested, own)
            for name in nested:
                # what is common is said before all else, which goes before it
                if name in flat and part != "common":
                    raise ValueError(f"{name!r} is given twice, by name and in {kwargs}: give it once.")
            # of pixels, what is None is left as it is
            kept = {name: value for name, value in nested.items() if value is not None or "text" in owners[name]}
            if kept:
                given[kwargs] = kept
        given = {name: value for name, value in given.items() if value is not None or "text" in owners[name]}
        try:
            merged: dict[str, Any] = self._merge_kwargs(
                self.valid_processor_kwargs,  # type: ignore[arg-type]
                tokenizer_init_kwargs=self.tokenizer.init_kwargs,
                **given,
            )
        except StrictDataclassError as error:
            raise ValueError(" ".join(str(error).split())) from error
        for name in ("return_mm_token_type_ids", "return_text_replacement_offsets"):
            merged["text_kwargs"].setdefault(name, merged.get(name))
        text, images, videos = (merged[kwargs] for kwargs in list(OWNERS)[:3])
        for name in TEXT_WITHOUT_USE:
            if text.pop(name, None):
                raise ValueError(f"{owner} has no use for {name}: leave it out.")
        for pixels in (images, videos):
            pixels.pop("return_tensors", None)
        check_without_use(type(self.image_processor).__name__, images)
        return text, images, videos

    def _video_processors(self, options: dict[str, Any]) -> tuple[Any, Any]:
        """The video processor that shares the tokens of a sample, and that of videos, which may be smaller yet."""
        sizes = {name: options[name] for name in LIMITS if options.get(name) is not None}
        others = {name: value for name, value in options.items() if name not in LIMITS}
        shared = self.video_processor.with_options(**others)
        return shared, shared.with_options(**sizes)

    def _process_sample(
        self, images: list[Any], videos: list[Any], image_options: dict[str, Any], shared: Any, own: Any
    ) -> Sample:
        """Pixels, and the text to be put in, of the images and videos of one text."""
        read: list[SampledVideo] = [
            own.read_video(video, *([known] if known is not None else [])) for video, known in videos
        ]
        count = len(images) + sum(len(video.frames) for video in read)
        check_budget(count, shared.max_visual_tokens, shared.min_visual_tokens)
        sample = Sample([], [], [], [], [video.metadata for video in read])
        for image in images:
            limited = self._image_options(count, image_options, shared)
            rescale = image_options.get("do_rescale", self.image_processor.do_rescale)
            features = self.image_processor(read_image(image, rescale), **limited, return_tensors="pt")
            tokens = int(features["image_grid_thw"].prod()) // int(features["image_merge_sizes"]) ** 2
            sample.images.append(features)
            sample.image_texts.append(self._expansion(IMAGE_TOKEN * tokens, IMAGE_PROBE_TOKEN))
        for video in read:
            patches, grid = own.process_frames(video.frames, self._frame_pixels(count, len(video.frames), shared, own))
            frame_tokens = [grid[1] * grid[2] // own.merge_size**2] * grid[0]
            if own.use_token_compression:
                frame_tokens = own.compression_mask(patches, grid).sum(dim=1).tolist()
            times = (f"Time {time:.1f}s:" for time in video.timestamps)
            frames = (time + VIDEO_TOKEN * kept for time, kept in zip(times, frame_tokens, strict=True))
            sample.videos.append((patches, grid))
            sample.video_texts.append(self._expansion(",".join(frames), VIDEO_PROBE_TOKEN))
        return sample

    def _image_options(self, count: int, options: dict[str, Any], shared: Any) -> dict[str, Any]:
        """Options of one of `count` images and frames that share the tokens of a sample."""
        options = dict(options)
        least, most = pixel_limits(*(options.pop(name, None) for name in LIMITS))
        own_least, own_most = pixel_limits(self.image_processor.size)
        patch, merge = self._patch_and_merge(options)
        tokens = (patch * merge) ** 2
        most = min(most or own_most, shared.max_visual_tokens * tokens // count)
        least = min(max(least or own_least, shared.min_visual_tokens * tokens), most)
        return options | {"size": {"shortest_edge": least, "longest_edge": most}}

    def _patch_and_merge(self, options: dict[str, Any]) -> tuple[int, int]:
        """Side of a patch of images in pixels, and of a token in patches."""
        images = self.image_processor
        return options.get("patch_size") or images.patch_size, options.get("merge_size") or images.merge_size

    def _frame_pixels(self, count: int, frames: int, shared: Any, own: Any) -> int:
        """Pixels of each of the frames of a video, in a sample of `count` images and frames."""
        return min(shared.pixels_per_frame(count), own.pixels_per_frame(frames))

    def _expansion(self, tokens: str, probe: str) -> str:
        """What stands for an image or a video."""
        parts = [tokens] if self.include_visual_tokens else []
        return "\n".join(parts + ([probe * self.num_probes] if self.include_visual_probes else []))

    def _tokenize(self, texts: list[str], samples: list[Sample], options: dict[str, Any]) -> dict[str, Any]:
        """Token ids of the texts with all tokens of their images and videos."""
        for token in (IMAGE_PROBE_TOKEN, VIDEO_PROBE_TOKEN):
            if any(token in text for text in texts):
                raise ValueError(f"the text holds {token!r}: the processor writes it, remove it from the text.")
        expanded: list[str]
        replacements: Any  # a list for each text, not what transformers annotates
        expanded, replacements = self.get_text_with_replacements(
            list(texts),
            images_replacements=[text for sample in samples for text in sample.image_texts],
            videos_replacements=[text for sample in samples for text in sample.video_texts],
        )
        options.setdefault("return_token_type_ids", False)
        marks, tells_replacements = (
            options.pop(name, None) for name in ("return_mm_token_type_ids", "return_text_replacement_offsets")
        )
        tokenized = dict(self.tokenizer(expanded, **options))
        for number, (ids, text) in enumerate(zip(tokenized["input_ids"], expanded, strict=True)):
            for token, token_id in zip(VISUAL_TOKENS, self.token_ids().values(), strict=True):
                if (have := ids.count(token_id)) != (need := text.count(token)):
                    raise ValueError(
                        f"sample {number} is cut: {have} of {need} {token} are left; raise max_length, or lower "
                        "max_visual_tokens, fps or max_frames."
                    )
        if "offset_mapping" in tokenized:
            tokenized["offset_mapping"] = [
                given_offsets(offsets, own, len(text))
                for offsets, own, text in zip(tokenized["offset_mapping"], replacements, texts, strict=True)
            ]
        if marks:
            tokenized["mm_token_type_ids"] = self.create_mm_token_type_ids(tokenized["input_ids"])
        if tells_replacements:
            tokenized["text_replacement_offsets"] = replacements
        return tokenized

    def _batch(self, samples: list[Sample], video_processor: Any) -> dict[str, Any]:
        """Pixels of all samples, and what is known of their videos if that is asked for."""
        data: dict[str, Any] = {}
        images = [features for sample in samples for features in sample.images]
        for name in images[0] if images else ():
            data[name] = torch.cat([features[name] for features in images])
        videos = [video for sample in samples for video in sample.videos]
        if videos and video_processor.return_metadata:
            data["video_metadata"] = [known for sample in samples for known in sample.metadata]
        return data | (video_processor.batch(videos) if videos else {})


__all__ = ["DnAVideoLlama3Processor"]
