"""What goes wrong with data."""


class DataError(ValueError):
    """The data does not fit what was asked; the message names the thing and the fix."""
