"""What conversion tells its user."""

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError

from ..errors import DnaError, sentence


class ConversionError(DnaError):
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


@contextmanager
def refused_configuration(name: str) -> Iterator[None]:
    """Turn what a configuration refuses into one sentence.

    Raises:
        ConversionError: for a value that the configuration of the result does not take.
    """
    try:
        yield
    except StrictDataclassError as error:
        raise ConversionError(f"cannot convert {name!r}: {sentence(error)}.") from error
