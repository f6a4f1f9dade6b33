"""Checkpoint + new head + label maps + resolution."""
