"""Predictions of a split and the metrics computed from them."""
