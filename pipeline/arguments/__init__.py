"""Every flag, declared once: groups of flags by subject, their roles, and the checks of their combinations."""
