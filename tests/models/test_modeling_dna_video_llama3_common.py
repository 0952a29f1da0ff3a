"""transformers' common model and configuration tests, on the video language model and its vision encoder."""

import unittest
from unittest import mock

import torch
from torch import nn

from dna_hf.models import (
    DnAVideoLlama3Config,
    DnAVideoLlama3ForConditionalGeneration,
    DnAVideoLlama3Model,
    DnAVideoLlama3VisionConfig,
    DnAVideoLlama3VisionModel,
)
from tests.kit.transformers_common import common_test_module, quiet_sub_test, treat_as


ConfigTester = common_test_module("test_configuration_common").ConfigTester
modeling_common = common_test_module("test_modeling_common")

treat_as("VideoLlama3VisionModel", DnAVideoLlama3VisionModel)
treat_as("VideoLlama3Model", DnAVideoLlama3Model)
treat_as("VideoLlama3ForConditionalGeneration", DnAVideoLlama3ForConditionalGeneration)

PATCH, PROBES = 4, 3
# placeholders, and the first token that is text
IDS = {"image_token_id": 3, "video_token_id": 4, "image_probe_token_id": 5, "video_probe_token_id": 6}
FIRST_TEXT = 7
VISION = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": PATCH,
    "num_probes": PROBES,
}


def without(prefix):
    """Takes common tests out of a class of tests; `None` is no test."""

    def decorate(tests):
        for name in dir(tests):
            if name.startswith(prefix):
                setattr(tests, name, None)
        return tests

    return decorate


class VisionModelTester:
    """A toy encoder of images of 2x4 patches."""

    is_training = True
    batch_size = 3
    patches = 8
    hidden_size = VISION["hidden_size"]
    num_hidden_layers = VISION["num_hidden_layers"]
    num_attention_heads = VISION["num_attention_heads"]
    # tokens of all images
    seq_length = 24

    def get_config(self):
        return DnAVideoLlama3VisionConfig(**VISION, attn_implementation="eager")

    def prepare_config_and_inputs_for_common(self):
        return self.get_config(), {
            "pixel_values": modeling_common.floats_tensor([self.batch_size * self.patches, 3 * PATCH**2]),
            "grid_thw": torch.tensor([[1, 2, 4]] * self.batch_size),
            "merge_sizes": torch.tensor([1] * self.batch_size),
        }


# they give pixels and a padding mask alone; the tests of the model compare its backends on packed visuals
@without("test_eager_matches_sdpa_inference")
# as natively, `attentions` has a list with the maps of every frame in the place of one tensor
@without("test_attention_outputs")
@without("test_retain_grad_hidden_states_attentions")
class DnAVideoLlama3VisionModelTest(modeling_common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (DnAVideoLlama3VisionModel,)
    subTest = quiet_sub_test
    test_resize_embeddings = False

    def setUp(self):
        self.model_tester = VisionModelTester()
        self.config_tester = ConfigTester(
            self,
            config_class=DnAVideoLlama3VisionConfig,
            has_text_modality=False,
            hidden_size=32,
            num_attention_heads=4,
        )

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        # as natively: the input embedding is a projection of patches, not an `nn.Embedding`
        model = DnAVideoLlama3VisionModel(self.model_tester.get_config())
        self.assertIsInstance(model.get_input_embeddings(), nn.Module)
        self.assertIsNone(model.get_output_embeddings())


class VideoLlama3Tester:
    """A toy model of which each sample has an image of 2x4 patches."""

    is_training = True
    batch_size = 3
    patches = 8
    text_length = 5
    seq_length = text_length + patches + PROBES
    vocab_size = 99
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4

    def get_config(self):
        text = {
            "model_type": "qwen2",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": 37,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
        }
        return DnAVideoLlama3Config(text_config=text, vision_config=VISION, **IDS)

    def prepare_config_and_inputs_for_common(self):
        text = modeling_common.ids_tensor([self.batch_size, self.text_length], self.vocab_size)
        visual = [IDS["image_token_id"]] * self.patches + [IDS["image_probe_token_id"]] * PROBES
        places = torch.tensor([visual] * self.batch_size, device=text.device)
        input_ids = torch.cat([places, text], dim=1)
        return self.get_config(), {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids),
            "pixel_values": modeling_common.floats_tensor([self.batch_size * self.patches, 3 * PATCH**2]),
            "image_grid_thw": torch.tensor([[1, 2, 4]] * self.batch_size),
            "image_merge_sizes": torch.tensor([1] * self.batch_size),
        }


def text_ids(*args, **kwargs):
    """Random token ids without placeholders, which the model refuses if there is nothing for them."""
    return original_ids_tensor(*args, **kwargs).clamp(min=FIRST_TEXT)


original_ids_tensor = modeling_common.ids_tensor


# they give token ids and a padding mask alone; the tests of the model compare its backends
@without("test_eager_matches_sdpa_inference")
# it asks for tests that the source distribution lacks; generation has tests of its own
@without("test_generation_tester_mixin_inheritance")
class DnAVideoLlama3ModelTest(modeling_common.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (DnAVideoLlama3Model, DnAVideoLlama3ForConditionalGeneration)
    subTest = quiet_sub_test
    _is_composite = True

    def setUp(self):
        patched = mock.patch.object(modeling_common, "ids_tensor", text_ids)
        patched.start()
        self.addCleanup(patched.stop)
        self.model_tester = VideoLlama3Tester()
        self.config_tester = ConfigTester(self, config_class=DnAVideoLlama3Config, has_text_modality=False)

    def test_config(self):
        self.config_tester.run_common_tests()
