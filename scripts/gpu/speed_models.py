"""The models whose speed is measured, on weights of a fixed seed, and the calls that are timed.

A call of inference is a batch in bfloat16 through the model. A call of training is a step as the Trainer does it with
`bf16: true`: weights in float32, forward under autocast, backward, fused AdamW; on one batch, again and again.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import TimesformerConfig, TimesformerForVideoClassification, ViTConfig, ViTForImageClassification
from transformers.models.video_llama_3 import VideoLlama3VisionConfig, VideoLlama3VisionModel

from dna_hf.models import (
    DnATimesformerConfig,
    DnATimesformerForVideoClassification,
    DnAVideoLlama3VisionConfig,
    DnAVideoLlama3VisionModel,
    DnAViTConfig,
    DnAViTForImageClassification,
)
from dna_hf.records.complexity import count_macs


SEED = 0
LABELS = 1000
# the model of transformers that the others of its family are compared with
NATIVE = "native"
# classes of the layers that are compiled one by one: the same code serves all layers of a model
LAYERS = ("ViTLayer", "DnAViTLayer", "Block")
# steps of training that must agree before one is timed, and those before a CUDA graph is captured
STEPS, GRAPH_WARM_UP = 5, 2
LEARNING_RATE = 1e-4
TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
TIMM_NAMES = {"hidden_size": "embed_dim", "num_hidden_layers": "depth", "num_attention_heads": "num_heads"}
TINY_ENCODER = TINY | {"num_attention_heads": 4}


@dataclass(frozen=True)
class Stage:
    """What is measured side by side.

    Args:
        family: `"vit"`, `"timesformer"` or `"probes"` (the vision encoder of VideoLLaMA3 with visual probes).
        work: `"inference"` or `"training"`.
        mode: `"eager"`, `"compiled"` (each layer) or `"graph"` (a CUDA graph of the whole call).
        size: height and width of images and frames, in pixels.
        batch: images or videos of a call.
        models: names of the models: the native one first, then what matters most.
        frames: frames of a video.
    """

    family: str
    work: str
    mode: str
    size: int
    batch: int
    models: tuple[str, ...]
    frames: int = 1

    @property
    def tokens(self) -> int:
        """Tokens of an image or a video."""
        if self.family == "probes":
            return self.frames * (self.size // 14) ** 2
        return 1 + self.frames * (self.size // 16) ** 2


def configuration(stage: Stage, name: str, sizes: dict[str, int]) -> tuple[type, Any]:
    """Class and configuration of a model, timm's excepted.

    Args:
        stage: what is measured.
        name: `"native"` or an attention variant.
        sizes: width, depth and heads where they are not those of the paper.
    """
    if stage.family == "probes":
        if name == NATIVE:
            # VideoLLaMA3's own sizes, which are the defaults of the other
            sizes = {key: getattr(DnAVideoLlama3VisionConfig(), key) for key in TINY} | {"patch_size": 14} | sizes
            return VideoLlama3VisionModel, VideoLlama3VisionConfig(**sizes)
        return DnAVideoLlama3VisionModel, DnAVideoLlama3VisionConfig(attention_variant=name, **sizes)
    fields: dict[str, Any] = sizes | {"image_size": stage.size, "patch_size": 16, "num_labels": LABELS}
    if stage.family == "timesformer":
        fields |= {"num_frames": stage.frames, "attention_type": "divided_space_time"}
        if name == NATIVE:
            return TimesformerForVideoClassification, TimesformerConfig(**fields)
        return DnATimesformerForVideoClassification, DnATimesformerConfig(attention_variant=name, **fields)
    if name == NATIVE:
        return ViTForImageClassification, ViTConfig(**fields)
    return DnAViTForImageClassification, DnAViTConfig(attention_variant=name, **fields)


def build(stage: Stage, name: str, sizes: dict[str, int], device: torch.device) -> nn.Module:
    """A model with the weights of the seed, in float32."""
    torch.manual_seed(SEED)
    with device:
        if name == "timm":
            return _timm(stage, sizes)
        model_class, config = configuration(stage, name, sizes)
        return model_class(config)


def _timm(stage: Stage, sizes: dict[str, int]) -> nn.Module:
    import timm

    options: dict[str, Any] = {TIMM_NAMES[name]: size for name, size in sizes.items() if name in TIMM_NAMES}
    if "intermediate_size" in sizes:
        options["mlp_ratio"] = sizes["intermediate_size"] / sizes["hidden_size"]
    options |= {"img_size": stage.size, "num_classes": LABELS}
    return timm.create_model("vit_base_patch16_224", pretrained=False, **options)


def inputs_of(stage: Stage, device: torch.device) -> dict[str, Any]:
    """A random batch: `x`, what the model takes, and `labels`."""
    generator = torch.Generator(device).manual_seed(SEED)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    labels = torch.randint(0, LABELS, (stage.batch,), generator=generator, device=device)
    if stage.family == "probes":
        side = stage.size // 14
        return {
            "x": noise(stage.batch * stage.tokens, 3 * 14 * 14),
            "grid_thw": torch.tensor([[stage.frames, side, side]] * stage.batch, device=device),
            "merge_sizes": torch.full((stage.batch,), 2, device=device),
            "labels": labels,
        }
    frames = (stage.frames,) if stage.family == "timesformer" else ()
    return {"x": noise(stage.batch, *frames, 3, stage.size, stage.size), "labels": labels}


def first_of(inputs: dict[str, Any], stage: Stage, count: int) -> dict[str, Any]:
    """The first samples of a batch."""
    rows = count * (stage.tokens if stage.family == "probes" else 1)
    return {name: tensor[: rows if name == "x" else count] for name, tensor in inputs.items()}


def forward(stage: Stage, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
    """Logits, or what the vision encoder with or without probes returns."""
    if stage.family == "probes":
        outputs = model(inputs["x"], grid_thw=inputs["grid_thw"], merge_sizes=inputs["merge_sizes"])
        return outputs.last_hidden_state if "probe_hidden_states" not in outputs else outputs.probe_hidden_states
    outputs = model(inputs["x"])
    return outputs if isinstance(outputs, torch.Tensor) else outputs.logits


def call_of(stage: Stage, model: nn.Module, inputs: dict[str, Any], exact: bool = False) -> Callable[[], torch.Tensor]:
    """What is timed: a batch through the model, or a step of training, which returns the loss.

    Args:
        stage: what is measured.
        model: the model in float32; inference casts it.
        inputs: the batch.
        exact: in float32 throughout, to compare with.
    """
    if stage.work == "inference":
        dtype = torch.float32 if exact else torch.bfloat16
        model.to(dtype).eval()
        inputs = inputs | {"x": inputs["x"].to(dtype)}
        return torch.no_grad()(lambda: forward(stage, model, inputs))
    model.train()
    device = inputs["x"].device
    # capturable: its steps are counted on the device, as a CUDA graph needs it
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, fused=True, capturable=stage.mode == "graph" and device.type == "cuda"
    )

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        # no cache: a captured cast would be replayed from memory that is not its own; each weight is cast once anyway
        with torch.autocast(device.type, torch.bfloat16, enabled=not exact, cache_enabled=False):
            loss = nn.functional.cross_entropy(forward(stage, model, inputs).float(), inputs["labels"])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def compile_layers(model: nn.Module, backend: str) -> None:
    """Compile every layer, without graph breaks."""
    layers = [module for module in model.modules() if type(module).__name__ in LAYERS]
    assert layers, f"{type(model).__name__} has no layers to compile"
    for layer in layers:
        layer.compile(fullgraph=True, backend=backend)


def captured(call: Callable[[], torch.Tensor], pool: Any) -> Callable[[], torch.Tensor]:
    """A call as a CUDA graph.

    Args:
        call: the call; it is called `GRAPH_WARM_UP` times first.
        pool: memory that graphs share which never run at the same time, and whose outputs are read at once.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(GRAPH_WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=stream):
        output = call()

    def replay() -> torch.Tensor:
        graph.replay()
        return output

    return replay


def results(stage: Stage, call: Callable[[], torch.Tensor], steps: int = STEPS) -> torch.Tensor:
    """What is compared: the output of inference, or the losses of the first steps of training."""
    if stage.work == "inference":
        return call().float().clone()
    return torch.stack([call().clone() for _ in range(steps)])


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference, relative to what is expected; NaN where a number is not finite."""
    return ((found - expected).norm() / expected.norm()).item()


def macs_of(stage: Stage, name: str, sizes: dict[str, int], device: torch.device) -> int:
    """Multiply-accumulates of one image or video."""
    # of a batch and of training they are as many times more in every model
    one = replace(stage, work="inference", mode="eager", batch=1, models=())
    return _macs_of_one(one, NATIVE if name == "timm" else name, tuple(sizes.items()), device)


@cache
def _macs_of_one(stage: Stage, name: str, fields: tuple[tuple[str, int], ...], device: torch.device) -> int:
    sizes = dict(fields)
    if stage.family != "probes":
        return count_macs(*configuration(stage, name, sizes))
    # the grids decide on shapes, and must have values
    model: Any = build(stage, name, sizes, device).requires_grad_(False)
    # the kernels of sdpa on the CPU are not counted
    model.set_attn_implementation("eager")
    call = call_of(stage, model, inputs_of(stage, device))
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2
