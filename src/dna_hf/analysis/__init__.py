"""What the branches of an attention do: the statistics of the paper."""

from .errors import AnalysisError
from .subspace_report import SubspaceReport, analyze_subspaces


__all__ = ["AnalysisError", "SubspaceReport", "analyze_subspaces"]
