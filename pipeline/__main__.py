"""`python -m pipeline`, which is what `accelerate launch -m pipeline` runs."""

from pipeline.cli import entry_point

if __name__ == "__main__":
    entry_point()
