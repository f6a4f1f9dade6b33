"""`ImageClassifier`: load, build and save it; its head, resolution and layers."""
