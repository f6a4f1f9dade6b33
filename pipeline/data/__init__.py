"""Datasets: load a dataset by name as `DatasetDict(train, validation, test)` with aligned labels."""
