"""Runs described by YAML files, trained by transformers' Trainer."""

from .config_file import ConfigurationError, RunConfig, data_arguments, parse_value, read_sections, run_config


__all__ = ["ConfigurationError", "RunConfig", "data_arguments", "parse_value", "read_sections", "run_config"]
