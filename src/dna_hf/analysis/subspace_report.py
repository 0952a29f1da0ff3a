"""The subspace statistics of a model over a data set, by layer and head, streaming over batches."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from ..models.attention_variants import Branches
from .accumulate import RunningDistribution
from .errors import AnalysisError
from .observer import AttentionCall, AttentionPlace, attention_places, on_device, single_branch, watch_attention
from .subspaces import (
    Against,
    count_intruders,
    left_singular_vectors,
    map_entropy,
    map_mass,
    principal_angles,
    signed_parts,
    token_cosine,
    trace_similarity,
)


# Ends of the histograms of all statistics but the intruder counts, which have a bin for every number.
RANGES = {
    "value_similarity": (-1.0, 1.0),
    "output_cosine": (-1.0, 1.0),
    "output_similarity": (-1.0, 1.0),
    "smallest_angle": (0.0, torch.pi / 2),
    "mean_angle": (0.0, torch.pi / 2),
    "largest_angle": (0.0, torch.pi / 2),
    "positive_entropy": (0.0, 1.0),
    "negative_entropy": (0.0, 1.0),
    "positive_mass": (0.0, 1.0),
    "negative_mass": (0.0, 1.0),
}
# medians of cosines are then known to 0.001
BINS = 1000
EPSILONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


@dataclass(frozen=True)
class IntruderSettings:
    """How intruder dimensions are counted; see [`~dna_hf.analysis.subspaces.intruder_dimensions`].

    Args:
        k: how many leading directions of a branch are looked at.
        epsilon: a direction below this cosine with all of the other branch is an intruder.
        against: the directions of the other branch that count, its `"top_k"` or `"all"`.
        epsilons: thresholds of the sensitivity table, which has a row for every number of directions up to `k`.
    """

    k: int = 10
    epsilon: float = 0.5
    against: Against = "top_k"
    epsilons: tuple[float, ...] = EPSILONS


class LayerSubspaces:
    """Statistics of one attention module, filled batch by batch.

    Every value belongs to one sequence and head. A sequence is an image; in a TimeSformer, one frame of a video for
    attention over space, one patch position for attention over time.

    Attributes:
        statistics: name -> distribution per head. Defined for all variants: `positive_entropy` and `positive_mass` of
            the (first) map; `negative_entropy` and `negative_mass` of the second map, under cog attention of the
            negative part of the only one. Defined for two branches: `negative_intruders` and `positive_intruders`
            (directions of the branch so named that are foreign to the other), `value_similarity` (1 by construction
            where the branches share their values), `output_cosine` (by token), `output_similarity` (by head), and
            `smallest_angle`, `mean_angle` and `largest_angle` (radians) between the leading `k` directions.
        scale: factor (heads) of the second branch: alpha, or minus lambda of differential attention.
        undefined: why the statistics of two branches are missing; `None` where they are not.
    """

    def __init__(self, place: AttentionPlace, variant: str, scale: torch.Tensor | None, settings: IntruderSettings):
        self.place, self.variant, self.settings = place, variant, settings
        self.scale = None if scale is None else scale.tolist()
        self.undefined = single_branch(variant) if scale is None else None
        self.statistics: dict[str, RunningDistribution] = {}
        # sums over the sequences, (heads, k, epsilons) by the branch that is counted
        self._intruder_sums: dict[str, torch.Tensor] = {}
        self._sequences = 0

    def add(self, branches: Branches) -> None:
        """Add one batch.

        Raises:
            AnalysisError: naming the place, if one of its statistics cannot be formed.
        """
        try:
            self._add_statistics(branches)
        except AnalysisError as error:
            raise AnalysisError(f"{self.place}: {error}") from error

    def _add_statistics(self, branches: Branches) -> None:
        self._sequences += branches.outputs[0].shape[0]
        self._add_maps(branches)
        if len(branches.outputs) == 2:
            self._add_similarities(branches)
            self._add_subspaces(branches)

    def _add(self, name: str, values: torch.Tensor, low: float, high: float, bins: int = BINS) -> None:
        if name not in self.statistics:
            self.statistics[name] = RunningDistribution(values.shape[1], low, high, bins)
        self.statistics[name].add(values)

    def _add_maps(self, branches: Branches) -> None:
        maps = signed_parts(branches.maps[0]) if self.variant == "cog" else branches.maps
        for sign, weights in zip(("positive", "negative"), maps, strict=False):
            self._add(f"{sign}_entropy", map_entropy(weights), *RANGES[f"{sign}_entropy"])
            self._add(f"{sign}_mass", map_mass(weights), *RANGES[f"{sign}_mass"])

    def _add_similarities(self, branches: Branches) -> None:
        similarities = {
            "value_similarity": trace_similarity(*branches.values),
            "output_cosine": token_cosine(*branches.outputs),
            "output_similarity": trace_similarity(*branches.outputs),
        }
        for name, values in similarities.items():
            self._add(name, values, *RANGES[name])

    def _add_subspaces(self, branches: Branches) -> None:
        k, epsilon = self.settings.k, self.settings.epsilon
        positive, negative = map(left_singular_vectors, branches.outputs)
        angles = principal_angles(positive, negative, k)
        for name, values in (("smallest", angles[..., 0]), ("mean", angles.mean(-1)), ("largest", angles[..., -1])):
            self._add(f"{name}_angle", values, *RANGES[f"{name}_angle"])
        for name, counted, others in (("negative", negative, positive), ("positive", positive, negative)):
            counts = count_intruders(
                counted, others, range(1, k + 1), (epsilon, *self.settings.epsilons), self.settings.against
            )
            # one bin for every number from 0 to k
            self._add(f"{name}_intruders", counts[..., k - 1, 0], -0.5, k + 0.5, k + 1)
            sums = counts[..., 1:].sum(dim=0).cpu()
            self._intruder_sums[name] = sums + self._intruder_sums.get(name, 0)

    def sensitivity(self) -> dict[str, list[list[list[float]]]]:
        """Mean intruder counts by the branch that is counted: head -> number of directions 1 to k -> epsilon."""
        return {name: (sums / self._sequences).tolist() for name, sums in self._intruder_sums.items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, lists and strings."""
        return {
            "layer": self.place.layer,
            "axis": self.place.axis,
            "variant": self.variant,
            "scale": self.scale,
            "undefined": self.undefined,
            "statistics": {name: values.to_dict() for name, values in self.statistics.items()},
            "intruder_sensitivity": self.sensitivity(),
        }


@dataclass
class SubspaceReport:
    """Subspace statistics of a model.

    Args:
        samples: number of images or videos that were looked at.
        settings: how intruder dimensions were counted.
        layers: one entry per attention module, by layer and axis.
    """

    samples: int
    settings: IntruderSettings
    layers: list[LayerSubspaces]

    def overall(self) -> dict[str, dict[str, RunningDistribution]]:
        """Axis -> statistic -> its distribution over all layers, heads and sequences, as the paper states them."""
        pooled: dict[str, dict[str, RunningDistribution]] = {}
        for layer in self.layers:
            own = pooled.setdefault(layer.place.axis, {})
            for name, values in layer.statistics.items():
                if name in own:
                    own[name].merge(values.pooled())
                else:
                    own[name] = values.pooled()
        return pooled

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, lists and strings, for a JSON file."""
        return {
            "samples": self.samples,
            "intruders": {
                "k": self.settings.k,
                "epsilon": self.settings.epsilon,
                "against": self.settings.against,
                "epsilons": list(self.settings.epsilons),
            },
            "layers": [layer.to_dict() for layer in self.layers],
            "overall": {
                axis: {name: values.to_dict() for name, values in statistics.items()}
                for axis, statistics in self.overall().items()
            },
        }


@torch.no_grad()
def analyze_subspaces(
    model: PreTrainedModel,
    batches: Iterable[dict[str, Any]],
    *,
    k: int = 10,
    epsilon: float = 0.5,
    against: Against = "top_k",
    epsilons: Sequence[float] = EPSILONS,
    layers: Sequence[int] | None = None,
    axis: str | None = None,
) -> SubspaceReport:
    """Measure what the branches of every attention head share, over any number of batches.

    The model runs in evaluation mode under its own attention implementation. Memory does not depend on the number of
    batches. Singular vectors of outputs computed in half precision carry its rounding: load the model in float32.

    Args:
        model: a DnA model of images or videos, with any attention variant; a vision encoder with probes, or a video
            language model, of which the attention of the probes is looked at.
        batches: arguments of `model.forward`, e.g. `{"pixel_values": ...}`; they are moved to the model's device. With
            probes, one image or video (of each) at a time.
        k: number of leading directions of a branch that are looked at, for intruders and for principal angles.
        epsilon: largest cosine of an intruder: a direction below it with all of the other branch is one.
        against: directions of the other branch that count for intruders: its `"top_k"`, or `"all"`.
        epsilons: thresholds of the sensitivity table, which has a row for every number of directions up to `k`.
        layers: numbers of layers, counted from 0, negative ones from the end; all by default.
        axis: only the attention over `space`, `time` or `space_time`; all by default. Attention over time has no more
            directions than a video has frames.

    Raises:
        AnalysisError: for the probes of several images or videos at once, settings out of range, a layer or an axis
            that does not exist, values that are not finite, a mask that cannot be read, or no batches.
    """
    settings = IntruderSettings(k, epsilon, against, tuple(epsilons))
    places = attention_places(model, layers, axis)
    found: dict[AttentionPlace, LayerSubspaces] = {}

    def add(call: AttentionCall) -> None:
        branches = call.branches()
        if call.place not in found:
            found[call.place] = LayerSubspaces(call.place, call.variant, branches.scale, settings)
        found[call.place].add(branches)

    samples = 0
    for batch in batches:
        inputs = on_device(model, batch)
        count = _count_samples(model, inputs)
        watch_attention(model, inputs, places, add)
        samples += count
    if not samples:
        raise AnalysisError("there are no batches to analyse.")
    return SubspaceReport(samples, settings, [found[place] for place in places.values()])


def _count_samples(model: PreTrainedModel, inputs: Mapping[str, Any]) -> int:
    """Images and videos in a batch.

    Raises:
        AnalysisError: if the probes of several of them would be taken for one sample.
    """
    names = ("grid_thw", "image_grid_thw", "video_grid_thw")
    grids = [inputs[name] for name in names if inputs.get(name) is not None]
    if not grids:
        return len(inputs[model.main_input_name])
    if any(len(grid) > 1 for grid in grids):
        raise AnalysisError("the probes of several images or videos lie in one sequence: give one at a time.")
    return len(grids)
