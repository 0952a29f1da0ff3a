"""What goes wrong with an analysis."""


class AnalysisError(ValueError):
    """What was asked cannot be analysed; the message names the thing and the fix."""
