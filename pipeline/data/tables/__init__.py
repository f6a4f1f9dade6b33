"""Tables in a local folder or file: which files are read, their rows, and where the images of the rows are."""
