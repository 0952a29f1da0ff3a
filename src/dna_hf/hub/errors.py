"""What publishing tells its user."""


class PublishError(Exception):
    """A checkpoint cannot be published; one sentence that says why and what was, or was not, uploaded."""
