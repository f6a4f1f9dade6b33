"""The run folder: its files, its checkpoints, and what it records."""
