"""What goes wrong with the description of a run."""


class ConfigurationError(ValueError):
    """A run was described wrongly; the message names the key and the fix."""


class NonFiniteError(Exception):
    """Training met a number that is not finite; the message says where."""
