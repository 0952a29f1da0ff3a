"""What publishing tells its user."""

from ..errors import DnaError


class PublishError(DnaError):
    """A checkpoint cannot be published; one sentence that says why and what was, or was not, uploaded."""
