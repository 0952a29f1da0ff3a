"""What goes wrong with data."""

from ..errors import DnaError


class DataError(DnaError, ValueError):
    """The data does not fit what was asked; the message names the thing and the fix."""
