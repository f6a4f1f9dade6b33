"""Metrics, the one load path, and the scoring of a split."""
