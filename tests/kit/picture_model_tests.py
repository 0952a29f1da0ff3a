"""transformers' common tests, for models of images and videos in one of the attention variants."""

from unittest import mock

from torch import nn

from tests.kit.transformers_common import common_test_module, quiet_sub_test


ConfigTester = common_test_module("test_configuration_common").ConfigTester
modeling_common = common_test_module("test_modeling_common")


class PictureModelTester:
    """A toy model with dropout and stochastic depth; a subclass gives its configuration and the shape of its input."""

    is_training = True
    batch_size = 3
    num_channels = 3
    image_size = 8
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4
    num_labels = 10
    config_class: type
    # fields of the configuration; and, of one sample, the shape
    fields: dict
    shape: tuple

    def __init__(self, attention_variant):
        self.attention_variant = attention_variant

    def get_config(self):
        return self.config_class(
            attention_variant=self.attention_variant,
            # one layer of each kind: by default the only two layers would both be softmax
            cog_softmax_layers=[0],
            image_size=self.image_size,
            num_channels=self.num_channels,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            drop_path_rate=0.1,
            num_labels=self.num_labels,
            attn_implementation="eager",
            **self.fields,
        )

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {"pixel_values": modeling_common.floats_tensor((self.batch_size, *self.shape))}


class PictureModelTests(modeling_common.ModelTesterMixin):
    """The common tests; a subclass gives `all_model_classes` and `model_tester_class`."""

    attention_variant: str
    model_tester_class: type
    subTest = quiet_sub_test
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = self.model_tester_class(self.attention_variant)
        self.config_tester = ConfigTester(
            self,
            config_class=self.model_tester_class.config_class,
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
        # as natively: the input embedding is a projection of patches, not an `nn.Embedding`
        config = self.model_tester.get_config()
        for model_class in self.all_model_classes:
            model = model_class(config)
            self.assertIsInstance(model.get_input_embeddings(), nn.Module)
            self.assertIsNone(model.get_output_embeddings())
