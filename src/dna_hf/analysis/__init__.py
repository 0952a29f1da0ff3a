"""What the branches of an attention do: the statistics of the paper, and where they look."""

from .errors import AnalysisError
from .maps import HeatMap, VisualMaps, visual_maps
from .relevance import attention_relevance
from .rollout import attention_rollout
from .subspace_report import SubspaceReport, analyze_subspaces
from .wrappers import LogitsModel, reshape_transform


__all__ = [
    "AnalysisError",
    "HeatMap",
    "LogitsModel",
    "SubspaceReport",
    "VisualMaps",
    "analyze_subspaces",
    "attention_relevance",
    "attention_rollout",
    "reshape_transform",
    "visual_maps",
]
