"""What the tests of processors share."""


def assert_settings(processor, expected):
    """A processor has these settings; a tuple counts as a list."""
    for name, value in expected.items():
        found = getattr(processor, name)
        assert (list(found) if isinstance(value, list) else found) == value, name
