"""transformers' common model and configuration tests, on the DnA TimeSformer.

On two variants: DnA, and cog, whose first layer here is softmax attention. `test_contract.py` has every variant.
"""

import unittest

from dna_hf.models import DnATimesformerConfig, DnATimesformerForVideoClassification, DnATimesformerModel
from tests.kit.picture_model_tests import PictureModelTester, PictureModelTests
from tests.kit.transformers_common import newest_only, treat_as


treat_as("TimesformerModel", DnATimesformerModel)
treat_as("TimesformerForVideoClassification", DnATimesformerForVideoClassification)


class DnATimesformerModelTester(PictureModelTester):
    config_class = DnATimesformerConfig
    fields = {"patch_size": 4, "num_frames": 2}
    shape = (2, 3, 8, 8)
    # tokens of a video, and of one frame
    seq_length = 9
    frame_length = 5


class ModelTests(PictureModelTests):
    model_tester_class = DnATimesformerModelTester
    all_model_classes = (DnATimesformerModel, DnATimesformerForVideoClassification)

    def test_attention_outputs(self):
        # the common test takes the maps to go over all tokens; here `attentions` goes over those of a frame
        self.model_tester.encoder_seq_length = self.model_tester.frame_length
        super().test_attention_outputs()


class DnATimesformerModelTest(ModelTests, unittest.TestCase):
    attention_variant = "dna"


@newest_only
class DnATimesformerCogModelTest(ModelTests, unittest.TestCase):
    attention_variant = "cog"
