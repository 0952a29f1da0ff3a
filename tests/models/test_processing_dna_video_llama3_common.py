"""transformers' own tests of processors, image processors and video processors, run on those of the video LLM."""

import unittest
from contextlib import ExitStack
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from dna_hf.models import (
    DnAVideoLlama3ImageProcessor,
    DnAVideoLlama3Processor,
    DnAVideoLlama3VideoProcessor,
)
from tests.kit.transformers_common import common_test_module, quiet_sub_test
from tests.kit.video_llm import byte_tokenizer
from tests.kit.videos import write_video


processing = common_test_module("test_processing_common")
SUFFIXES = {"png": "a.png", "jpg": "a.png", "mp4": "a.mp4", "mp3": "a.wav", "wav": "a.wav"}


@pytest.fixture(scope="module", autouse=True)
def local_files(tmp_path_factory):
    """The tests name pictures and videos of the Hub: they get some of their kind from here."""
    folder = tmp_path_factory.mktemp("files")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(folder / "a.png")
    write_video(folder / "a.mp4", 90)

    def local(url):
        return str(folder / SUFFIXES[url.rpartition(".")[2]])

    with pytest.MonkeyPatch.context() as patch:
        data = {kind: [local(url) for url in urls] for kind, urls in processing.MODALITY_INPUT_DATA.items()}
        patch.setattr(processing, "MODALITY_INPUT_DATA", data)
        patch.setattr(processing, "url_to_local_path", local)
        yield


class DnAVideoLlama3ProcessorTest(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = DnAVideoLlama3Processor
    subTest = quiet_sub_test
    # what one image or 8 frames need
    images_text_kwargs_max_length = images_unstructured_max_length = 400
    videos_text_kwargs_max_length = videos_unstructured_max_length = 2000
    chat_template_max_length = 200
    # of three seconds at 30 frames per second, 8 x 10 patches each
    video_sampling_expectations = [
        {"num_frames": 3, "fps": None, "output_length": 3 * 80, "expected_dim": 0},
        {"fps": 2, "output_length": 6 * 80, "expected_dim": 0},
        {"fps": 1, "max_frames": 2, "output_length": 2 * 80, "expected_dim": 0},
        {"do_sample_frames": False, "max_visual_tokens": 4000, "output_length": 90 * 80, "expected_dim": 0},
    ]

    @classmethod
    def _setup_image_processor(cls):
        return DnAVideoLlama3ImageProcessor()

    @classmethod
    def _setup_video_processor(cls):
        return DnAVideoLlama3VideoProcessor()

    @classmethod
    def _setup_tokenizer(cls):
        return byte_tokenizer()

    # they look for a method that makes the text of an image without the rest of its sample
    does_processor_return_mm_offsets = staticmethod(lambda *_: True)

    def run(self, result=None):
        # where the code is saved, too, what is saved first lacks the `auto_map` of what is loaded
        with ExitStack() as stack:
            for part in (DnAVideoLlama3Processor, DnAVideoLlama3ImageProcessor, DnAVideoLlama3VideoProcessor):
                stack.enter_context(mock.patch.object(part, "_auto_class", None))
            return super().run(result)

    def test_if_input_has_mismatching_tokens_and_mm_data(self):
        # in other words
        with self.assertRaisesRegex(ValueError, r"^sample 2 has 1 <\|image_pad\|> but 2 images: they must be as many"):
            images = self.prepare_images_inputs(batch_size=4)
            self.get_processor()(images=images, text=self.prepare_text_inputs(batch_size=3, modalities=["image"]))

    def test_apply_chat_template_video_frame_sampling(self):
        # the last part: of a list of pictures frames are chosen here, too
        with self.assertRaisesRegex(AssertionError, "^ValueError not raised$"):
            super().test_apply_chat_template_video_frame_sampling()

    # theirs need torchcodec, which this processor does without
    def test_apply_chat_template_video(self):
        videos = processing.MODALITY_INPUT_DATA["videos"]
        for count in (1, 2):
            self._test_apply_chat_template("video", count, "pt", "videos_input_name", "video_processor", videos)

    def test_apply_chat_template_decoded_video(self):
        videos = [np.array(self.prepare_videos_inputs())]
        self._test_apply_chat_template("video", 1, "pt", "videos_input_name", "video_processor", videos)
