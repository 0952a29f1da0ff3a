"""transformers' own tests of image processors, run on that of the video LLM."""

import unittest

import numpy as np
import pytest

from dna_hf.models import DnAVideoLlama3ImageProcessor
from dna_hf.models.image_processing_dna_video_llama3 import resized_sides
from tests.kit.transformers_common import common_test_module, quiet_sub_test


# the tests of older versions are asked in another way
pytestmark = pytest.mark.once
images = common_test_module("test_image_processing_common")


class ImageTester(images.ImageProcessingTester):
    """What the tests ask for: images, and what is made of them."""

    def __init__(self, parent):
        size = {"shortest_edge": 16 * 14**2, "longest_edge": 100 * 14**2}
        super().__init__(parent, max_resolution=200, size=size, patch_size=14, merge_size=1, do_resize=True)

    def _get_image_processing_classes(self):
        return {"pil": DnAVideoLlama3ImageProcessor}

    def expected_output_image_shape(self, pictures):
        return sum(self.patches_of(picture) for picture in pictures), self.num_channels * 14**2

    def patches_of(self, picture):
        array = np.array(picture)
        height, width = array.shape[1:] if array.shape[0] in (3, 4) else array.shape[:2]
        sides = resized_sides(height, width, 14, self.size["shortest_edge"], self.size["longest_edge"])
        return sides[0] // 14 * (sides[1] // 14)


class DnAVideoLlama3ImageProcessorTest(images.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ImageTester
    test_cast_dtype = True
    subTest = quiet_sub_test
    # a rule for what is added to transformers itself
    test_new_models_require_torchvision_backend = None
    # its options are those of transformers' own of VideoLLaMA3
    test_valid_kwargs_set = None

    def assert_patches(self, channels=3, call=(), **kind):
        """As their tests of calls, without an axis of images: the patches of all of them follow each other."""
        self.image_processor_tester.num_channels = channels
        process = DnAVideoLlama3ImageProcessor(**self.image_processor_dict)
        pictures = self.image_processor_tester.prepare_image_inputs(**kind)
        for given in (pictures[0], pictures):
            expected = self.image_processor_tester.expected_output_image_shape(
                pictures if given is pictures else [given]
            )
            found = process(given, return_tensors="pt", **dict(call))
            self.assertEqual(tuple(found["pixel_values"].shape), expected)

    def test_call_pil(self):
        self.assert_patches()

    def test_call_numpy(self):
        self.assert_patches(numpify=True)

    def test_call_pytorch(self):
        self.assert_patches(torchify=True)

    def test_call_numpy_4_channels(self):
        call = {"do_convert_rgb": False, "image_mean": [0.0] * 4, "image_std": [1.0] * 4}
        self.assert_patches(4, call | {"input_data_format": "channels_last"}, numpify=True)
