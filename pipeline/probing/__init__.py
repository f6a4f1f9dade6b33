"""Frozen features, linear probe, nearest neighbors, learning curve."""
