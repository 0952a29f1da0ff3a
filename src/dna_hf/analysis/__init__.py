"""What the branches of an attention do: the statistics of the paper, and where they look."""

from .errors import AnalysisError
from .maps import HeatMap, VisualMaps, attention_maps
from .subspace_report import SubspaceReport, analyze_subspaces


__all__ = ["AnalysisError", "HeatMap", "SubspaceReport", "VisualMaps", "analyze_subspaces", "attention_maps"]
