"""What conversion tells its user."""


class ConversionError(Exception):
    """A checkpoint cannot be converted.

    Args:
        message: one sentence that names the source and the fix.
        problems: everything that is wrong with it, one short text each.
    """

    def __init__(self, message: str, problems: list[str] | None = None) -> None:
        self.problems = list(problems or [])
        if self.problems:
            shown = "; ".join(self.problems[:5])
            rest = f"; and {len(self.problems) - 5} more" if len(self.problems) > 5 else ""
            message = f"{message}: {shown}{rest}."
        super().__init__(message)


def first_line(error: Exception) -> str:
    """The first line of an error's message, without a full stop."""
    return (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
