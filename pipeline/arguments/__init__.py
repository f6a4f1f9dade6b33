"""Every flag, declared once."""
