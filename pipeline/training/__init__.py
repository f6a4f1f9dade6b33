"""Everything that touches `transformers.Trainer`, and nothing else."""
