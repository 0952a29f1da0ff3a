"""What goes wrong with the description of a run."""


class ConfigurationError(ValueError):
    """A run was described wrongly; the message names the key and the fix."""


class NonFiniteError(Exception):
    """Training met a number that is not finite; the message says where."""


def sentence(error: Exception) -> str:
    """What somebody else's error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
