"""Explanations as pictures and as a page."""
