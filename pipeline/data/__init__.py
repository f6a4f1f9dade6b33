"""A data set name -> `DatasetDict(train, validation, test)` with aligned labels."""
