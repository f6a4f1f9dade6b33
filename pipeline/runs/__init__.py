"""The run folder: its files, its checkpoints and its record."""
