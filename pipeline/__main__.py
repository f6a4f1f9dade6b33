"""`python -m pipeline`, which is what `accelerate launch -m pipeline` runs, and the command `vit-pipeline`."""

from pipeline import ending, signals


def main() -> None:
    """Run the command line of this process. A signal that arrives while Python still imports is handled too."""
    ending.end_quickly()
    signals.leave_while_starting()
    from pipeline.cli import entry_point

    entry_point()


if __name__ == "__main__":
    main()
