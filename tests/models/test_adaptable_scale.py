"""Alpha under PEFT: trained, saved, loaded, switched off and merged by what PEFT itself has."""

import contextlib
import copy
import io

import pytest
import torch
import transformers
from packaging import version
from safetensors.torch import load_file, save_file

from dna_hf.models.attention_variants import AdaptableScale, DenoisingAttention
from tests.kit.fresh_process import run_fresh
from tests.kit.models import action_model, animal_model


peft = pytest.importorskip("peft")

SCALE = "adapted_negative_scale"
MODELS = {
    "dna_vit": lambda: animal_model(),
    "shared_value": lambda: animal_model(attention_variant="dna_shared_value"),
    "dna_timesformer": lambda: action_model(),
}


def inputs(model):
    config = model.config
    size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    shape = (2, config.num_channels, size, size)
    if hasattr(config, "num_frames"):
        shape = (2, config.num_frames, *shape[1:])
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model, pixel_values):
    return model.eval()(pixel_values=pixel_values).logits


def scales(model):
    """Alpha (layers, heads) as it takes effect."""
    return torch.stack([module.branch_scale() for module in model.modules() if isinstance(module, DenoisingAttention)])


def adapted(model, shift, name="default"):
    """The model with an adapter that changes weights, head and alpha, the last by a known amount."""
    config = peft.LoraConfig(r=2, target_modules=["q_neg_proj"], modules_to_save=["classifier", "negative_scale"])
    if isinstance(model, peft.PeftModel):
        model.add_adapter(name, config)
        model.set_adapter(name)
    else:
        model = peft.get_peft_model(model, config, name)
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(f"{SCALE}.modules_to_save.{name}.offset"):
                assert parameter.requires_grad and not parameter.any()
                parameter += shift
            elif parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def base(request, tmp_path):
    """A folder with a model, and the class to load it by."""
    model = request.param()
    model.save_pretrained(tmp_path / "base")
    return type(model), tmp_path / "base"


def test_a_model_alone_has_nothing_more(base):
    model_class, folder = base
    model = model_class.from_pretrained(folder)
    for each in (model, copy.deepcopy(model)):
        assert {name for name, _ in each.named_parameters()} == load_file(folder / "model.safetensors").keys()
        assert set(each.state_dict()) == load_file(folder / "model.safetensors").keys()
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert set(loaded.state_dict()) == set(model.state_dict())
    assert torch.equal(logits(loaded, inputs(model)), logits(model, inputs(model)))


def test_an_adapter_keeps_alpha(base, tmp_path):
    model_class, folder = base
    model = model_class.from_pretrained(folder)
    pixel_values, names = inputs(model), set(model.state_dict())
    before, own = logits(model, pixel_values), scales(model)
    wrapped = adapted(model, 0.4)
    after = logits(wrapped, pixel_values)
    assert not torch.allclose(after, before)
    assert torch.equal(scales(wrapped), own + 0.4)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped, pixel_values), before)
        assert torch.equal(scales(wrapped), own)

    wrapped.save_pretrained(tmp_path / "adapter")
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    offsets = [tensor for name, tensor in saved.items() if name.endswith(f"{SCALE}.offset")]
    assert torch.equal(torch.stack(offsets), torch.full_like(own, 0.4))

    loaded = peft.PeftModel.from_pretrained(model_class.from_pretrained(folder), tmp_path / "adapter")
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(logits(loaded, pixel_values), after)
    merged = loaded.merge_and_unload()
    assert set(merged.state_dict()) == names
    torch.testing.assert_close(logits(merged, pixel_values), after, rtol=1e-5, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    again = model_class.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(again, pixel_values), logits(merged, pixel_values))
    assert torch.equal(scales(again), own + 0.4)


@pytest.mark.skipif(
    version.parse(transformers.__version__) < version.parse("5.23"),
    reason="before transformers 5.23, load_adapter leaves out modules_to_save, of every model",
)
def test_transformers_loads_it_by_itself(base, tmp_path):
    model_class, folder = base
    wrapped = adapted(model_class.from_pretrained(folder), -0.3)
    wrapped.save_pretrained(tmp_path / "adapter")
    model = model_class.from_pretrained(folder)
    model.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits(model, inputs(model)), logits(wrapped, inputs(model)))


def test_several_adapters_have_their_own(base, tmp_path):
    model_class, folder = base
    model = model_class.from_pretrained(folder)
    own = scales(model)
    model = adapted(adapted(model, 0.4, "first"), -0.3, "second")
    for each in (model, copy.deepcopy(model)):
        for name, shift in {"first": 0.4, "second": -0.3}.items():
            each.set_adapter(name)
            assert torch.equal(scales(each), own + shift)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(model_class.from_pretrained(folder), tmp_path / "first", "first")
    loaded.load_adapter(tmp_path / "second", "second")
    loaded.set_adapter("second")
    assert torch.equal(scales(loaded), own - 0.3)


@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
def test_a_copy_of_an_adapted_model_is_one(base, is_on):
    model_class, folder = base
    model = adapted(model_class.from_pretrained(folder), 0.4)
    with contextlib.nullcontext() if is_on else model.disable_adapter():
        copied = copy.deepcopy(model)
        assert copied.state_dict().keys() == model.state_dict().keys()
        assert torch.equal(logits(copied, inputs(model)), logits(model, inputs(model)))


def test_it_learns_as_the_parameter_itself_would():
    """One step of gradient descent on the offset moves alpha as one on alpha does."""
    alone, wrapped = animal_model(), animal_model()
    wrapped = peft.get_peft_model(
        wrapped, peft.LoraConfig(r=2, target_modules=["q_pos_proj"], modules_to_save=["negative_scale"])
    )
    for model in (alone, wrapped):
        model.train()(pixel_values=inputs(alone), labels=torch.tensor([0, 1])).loss.backward()
    offsets = [parameter for name, parameter in wrapped.named_parameters() if name.endswith(".offset")]
    own = [module.negative_scale for module in alone.modules() if isinstance(module, DenoisingAttention)]
    for offset, scale in zip(offsets, own, strict=True):
        assert scale.grad.any()
        torch.testing.assert_close(offset.grad, scale.grad, rtol=0, atol=0)


def test_the_copy_has_the_device_and_dtype_of_the_model():
    model = animal_model().to("meta", torch.bfloat16)
    scale = next(module for module in model.modules() if isinstance(module, AdaptableScale))
    copied = copy.deepcopy(scale)
    assert (copied.offset.device.type, copied.offset.dtype, copied.offset.shape) == ("meta", torch.bfloat16, (4,))


def test_compilation_takes_it_in():
    wrapped = adapted(animal_model(), 0.4)
    compiled = torch.compile(wrapped.eval(), backend="eager", fullgraph=True)
    pixel_values = inputs(wrapped)
    with torch.no_grad():
        assert torch.equal(compiled(pixel_values=pixel_values).logits, logits(wrapped, pixel_values))


WITHOUT_PACKAGE = """
import peft, torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForVideoClassification

kind, base, adapter, seen = sys.argv[1:]
auto = AutoModelForVideoClassification if "Video" in kind else AutoModelForImageClassification
model = peft.PeftModel.from_pretrained(auto.from_pretrained(base, trust_remote_code=True), adapter).eval()
seen = load_file(seen)
with torch.no_grad():
    torch.testing.assert_close(model(pixel_values=seen["pixel_values"]).logits, seen["logits"], atol=1e-5, rtol=1e-5)
print("same")
"""


def test_adapters_load_without_the_package(base, tmp_path):
    model_class, folder = base
    model_class.register_for_auto_class(
        "AutoModelForVideoClassification" if "Video" in model_class.__name__ else "AutoModelForImageClassification"
    )
    model_class.from_pretrained(folder).save_pretrained(folder)
    wrapped = adapted(model_class.from_pretrained(folder), 0.4)
    wrapped.save_pretrained(tmp_path / "adapter")
    pixel_values = inputs(wrapped)
    save_file({"pixel_values": pixel_values, "logits": logits(wrapped, pixel_values)}, tmp_path / "seen")
    paths = (folder, tmp_path / "adapter", tmp_path / "seen")
    assert "same" in run_fresh(WITHOUT_PACKAGE, tmp_path, model_class.__name__, *paths)
