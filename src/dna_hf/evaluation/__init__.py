"""Metrics, evaluation of checkpoints and prediction."""
