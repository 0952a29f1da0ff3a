"""Runs described by YAML files, trained by transformers' Trainer."""
