"""transformers' common model, configuration and backbone tests, on the DnA ViT.

On two variants: DnA, and cog, whose first layer here is softmax attention. `test_contract.py` has every variant.
"""

import unittest

from dna_hf.models import (
    DnAViTBackbone,
    DnAViTConfig,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
)
from tests.kit.picture_model_tests import PictureModelTester, PictureModelTests
from tests.kit.transformers_common import common_test_module, newest_only, treat_as


BackboneTesterMixin = common_test_module("test_backbone_common").BackboneTesterMixin

treat_as("ViTModel", DnAViTModel)
treat_as("ViTForImageClassification", DnAViTForImageClassification)
treat_as("ViTForMaskedImageModeling", DnAViTForMaskedImageModeling)
treat_as("Dinov2Backbone", DnAViTBackbone)


class DnAViTModelTester(PictureModelTester):
    config_class = DnAViTConfig
    patch_size = 2
    fields = {"patch_size": 2, "layer_scale_init_value": 0.5, "out_indices": [0, 1]}
    shape = (3, 8, 8)
    seq_length = 17
    mask_length = 16
    num_masks = 8


class ModelTests(PictureModelTests):
    model_tester_class = DnAViTModelTester
    all_model_classes = (DnAViTModel, DnAViTForImageClassification, DnAViTForMaskedImageModeling, DnAViTBackbone)


class BackboneTests(BackboneTesterMixin):
    attention_variant: str

    all_model_classes = (DnAViTBackbone,)
    config_class = DnAViTConfig

    def setUp(self):
        self.model_tester = DnAViTModelTester(self.attention_variant)


class DnAViTModelTest(ModelTests, unittest.TestCase):
    attention_variant = "dna"


@newest_only
class DnAViTCogModelTest(ModelTests, unittest.TestCase):
    attention_variant = "cog"


class DnAViTBackboneTest(BackboneTests, unittest.TestCase):
    attention_variant = "dna"


@newest_only
class DnAViTCogBackboneTest(BackboneTests, unittest.TestCase):
    attention_variant = "cog"
