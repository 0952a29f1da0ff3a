"""transformers' own tests of video processors, run on those of the TimeSformer and of the video LLM."""

import unittest

import pytest
import torch
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from dna_hf.models import (
    DnATimesformerVideoProcessor,
    DnAVideoLlama3VideoProcessor,
)
from dna_hf.models.video_inputs import as_frames
from tests.kit.transformers_common import common_test_module, quiet_sub_test


videos = common_test_module("test_video_processing_common")
# that of the top level needs torchvision
videos.AutoVideoProcessor = AutoVideoProcessor


class VideoTester:
    """What the tests ask for: videos, and what is made of them."""

    batch_size, num_frames, num_channels = 3, 8, 3

    def __init__(self, shape):
        self.shape = shape

    def prepare_video_inputs(self, equal_resolution=False, return_tensors="pil"):
        return videos.prepare_video_inputs(
            self.batch_size, self.num_frames, self.num_channels, 30, 80, equal_resolution, return_tensors
        )

    def expected_output_video_shape(self, inputs):
        return self.shape(inputs)


class DnATimesformerVideoProcessorTest(videos.VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = DnATimesformerVideoProcessor
    input_name = "pixel_values"
    test_cast_dtype = True
    subTest = quiet_sub_test
    video_processor_dict = {
        "size": {"shortest_edge": 20},
        "crop_size": {"height": 18, "width": 18},
        "num_frames": 8,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoTester(lambda inputs: [8, 3, 18, 18])

    def test_call_sample_frames(self):
        # the last part: of a video of fewer frames than are asked for, some are shown more than once
        with self.assertRaisesRegex(AssertionError, "^ValueError not raised$"):
            super().test_call_sample_frames()


# the older tests insist on an axis of videos
@pytest.mark.once
class DnAVideoLlama3VideoProcessorTest(videos.VideoProcessingTestMixin, unittest.TestCase):
    fast_video_processing_class = DnAVideoLlama3VideoProcessor
    test_cast_dtype = True
    subTest = quiet_sub_test
    video_processor_dict = {"patch_size": 7, "merge_size": 2, "max_visual_tokens": 500, "min_visual_tokens": 4}

    def setUp(self):
        super().setUp()
        self.video_processor_tester = VideoTester(self.shape_of)

    def shape_of(self, inputs):
        processor = DnAVideoLlama3VideoProcessor(**self.video_processor_dict)
        sides = [as_frames(video).shape[1:3] for video in inputs]
        return [sum(processor.get_num_of_video_patches(8, *side) for side in sides), 3 * 7**2]

    def assert_expected_videos_shape(self, encoded_videos, expected_output_video_shape, num_videos):
        # the patches of all videos follow each other
        self.assertEqual(list(encoded_videos.shape), expected_output_video_shape)

    def test_video_processor_from_dict_with_kwargs(self):
        # no size of a side, no crop
        processor = self.fast_video_processing_class.from_dict(self.video_processor_dict, max_frames=42)
        self.assertEqual((processor.max_frames, processor.patch_size), (42, 7))

    def test_call_numpy_4_channels(self):
        # of pictures, the transparency is left out
        pictures = videos.prepare_video(8, 4, 40, 50)
        encoded = DnAVideoLlama3VideoProcessor()(pictures, image_mean=0.0, image_std=1.0, return_tensors="pt")
        plain = [picture.convert("RGB") for picture in pictures]
        expected = DnAVideoLlama3VideoProcessor(image_mean=[0.0] * 3, image_std=[1.0] * 3)(plain)
        assert torch.equal(encoded["pixel_values_videos"], expected["pixel_values_videos"])

    def test_call_sample_frames(self):
        # as theirs, by the number of frames in the grid
        process, video = DnAVideoLlama3VideoProcessor(), videos.prepare_video(8, 3, 40, 50, "np")

        def frames(**options):
            return process([video, video], **options)["video_grid_thw"][:, 0].tolist()

        assert frames(num_frames=3, do_sample_frames=False) == [8, 8]
        assert frames(num_frames=3) == [3, 3]
        known = {"duration": 2.0, "total_num_frames": 8, "fps": 4}
        for metadata in ([known] * 2, [[known], [known]], [videos.VideoMetadata(**known)] * 2):
            assert frames(fps=2, video_metadata=metadata) == [4, 4]
        with self.assertRaisesRegex(ValueError, "a video of 8 frames has fewer than num_frames=10"):
            frames(num_frames=10)
