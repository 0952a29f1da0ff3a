"""What goes wrong with an analysis."""

from ..errors import DnaError


class AnalysisError(DnaError, ValueError):
    """What was asked cannot be analysed; the message names the thing and the fix."""
