"""transformers' common model, configuration and backbone tests, on the DnA ViT.

Those of DnA and of softmax attention always run; those of the other variants, which differ in the attention alone, are
slow tests.
"""

import unittest
from unittest import mock

import pytest
from torch import nn

from dna_hf.models import (
    DnAViTBackbone,
    DnAViTConfig,
    DnAViTForImageClassification,
    DnAViTForMaskedImageModeling,
    DnAViTModel,
)
from tests.kit.transformers_common import common_test_module, newest_only, treat_as


BackboneTesterMixin = common_test_module("test_backbone_common").BackboneTesterMixin
ConfigTester = common_test_module("test_configuration_common").ConfigTester
modeling_common = common_test_module("test_modeling_common")

treat_as("ViTModel", DnAViTModel)
treat_as("ViTForImageClassification", DnAViTForImageClassification)
treat_as("ViTForMaskedImageModeling", DnAViTForMaskedImageModeling)
treat_as("Dinov2Backbone", DnAViTBackbone)


class DnAViTModelTester:
    """A toy model with dropout, stochastic depth and layer scale."""

    is_training = True
    batch_size = 3
    image_size = 8
    patch_size = 2
    num_channels = 3
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_labels = 10
    seq_length = 17
    mask_length = 16
    num_masks = 8

    def __init__(self, attention_variant):
        self.attention_variant = attention_variant

    def get_config(self):
        return DnAViTConfig(
            attention_variant=self.attention_variant,
            # one layer of each kind: by default the only two layers would both be softmax
            cog_softmax_layers=[0],
            image_size=self.image_size,
            patch_size=self.patch_size,
            num_channels=self.num_channels,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            drop_path_rate=0.1,
            layer_scale_init_value=0.5,
            num_labels=self.num_labels,
            out_indices=[0, 1],
            attn_implementation="eager",
        )

    def prepare_config_and_inputs_for_common(self):
        size = (self.batch_size, self.num_channels, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": modeling_common.floats_tensor(size)}


class ModelTests(modeling_common.ModelTesterMixin):
    attention_variant: str

    all_model_classes = (DnAViTModel, DnAViTForImageClassification, DnAViTForMaskedImageModeling, DnAViTBackbone)
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = DnAViTModelTester(self.attention_variant)
        self.config_tester = ConfigTester(
            self,
            config_class=DnAViTConfig,
            has_text_modality=False,
            hidden_size=24,
            attention_variant=self.attention_variant,
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_can_init_all_missing_weights(self):
        # the common test takes the age of a model from the copyright line of its file and skips those before 2023
        source = mock.mock_open(read_data="# Copyright 2026")
        with mock.patch.object(modeling_common, "open", source, create=True):
            super().test_can_init_all_missing_weights()

    def test_model_get_set_embeddings(self):
        # as the native ViT: the input embedding is a projection of patches, not an `nn.Embedding`
        config = self.model_tester.get_config()
        for model_class in self.all_model_classes:
            model = model_class(config)
            self.assertIsInstance(model.get_input_embeddings(), nn.Module)
            self.assertIsNone(model.get_output_embeddings())


class BackboneTests(BackboneTesterMixin):
    attention_variant: str

    all_model_classes = (DnAViTBackbone,)
    config_class = DnAViTConfig

    def setUp(self):
        self.model_tester = DnAViTModelTester(self.attention_variant)


class DnAViTModelTest(ModelTests, unittest.TestCase):
    attention_variant = "dna"


@pytest.mark.slow
class DnAViTSharedValueModelTest(ModelTests, unittest.TestCase):
    attention_variant = "dna_shared_value"


@newest_only
class DnAViTSoftmaxModelTest(ModelTests, unittest.TestCase):
    attention_variant = "softmax"


@pytest.mark.slow
class DnAViTDifferentialModelTest(ModelTests, unittest.TestCase):
    attention_variant = "differential"


@pytest.mark.slow
class DnAViTCogModelTest(ModelTests, unittest.TestCase):
    attention_variant = "cog"


class DnAViTBackboneTest(BackboneTests, unittest.TestCase):
    attention_variant = "dna"


@pytest.mark.slow
class DnAViTSharedValueBackboneTest(BackboneTests, unittest.TestCase):
    attention_variant = "dna_shared_value"


@newest_only
class DnAViTSoftmaxBackboneTest(BackboneTests, unittest.TestCase):
    attention_variant = "softmax"


@pytest.mark.slow
class DnAViTDifferentialBackboneTest(BackboneTests, unittest.TestCase):
    attention_variant = "differential"


@pytest.mark.slow
class DnAViTCogBackboneTest(BackboneTests, unittest.TestCase):
    attention_variant = "cog"
