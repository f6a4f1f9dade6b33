"""Model card, text tables and `Run`, computed only from the files of a run folder."""
