"""Model card (later: figures, report page), from the files of a run folder and nothing else."""
