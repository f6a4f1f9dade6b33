"""What is wrong with the data: suspicious labels, duplicates, and images that leak from one split into another."""
