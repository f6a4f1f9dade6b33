"""Model card and text tables, from the files of a run folder and nothing else."""
