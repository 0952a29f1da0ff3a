"""A metric as a local `evaluate` module."""
