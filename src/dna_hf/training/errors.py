"""What goes wrong with the description of a run."""

from ..errors import DnaError


class ConfigurationError(DnaError, ValueError):
    """A run was described wrongly; the message names the key and the fix."""


class NonFiniteError(DnaError):
    """Training met a number that is not finite; the message says where."""
