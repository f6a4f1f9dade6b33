"""Choosing: `--auto` before training, and after it other models that are kept if validation improves."""
