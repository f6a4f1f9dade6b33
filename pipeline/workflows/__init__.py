"""One workflow a file: train, evaluate, predict, push."""
