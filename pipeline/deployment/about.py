"""What the page says about a model: its accuracy and calibration, and examples from the thumbnails of its run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.deployment.page import About
from pipeline.evaluation.examples import Scored
from pipeline.evaluation.predictions import read_predictions
from pipeline.evaluation.thumbnails import SIDE, headline_split, read_thumbnails
from pipeline.runs.files import explain_unreadable, read_json
from pipeline.runs.folder import PREDICTIONS, RECORD, RESULTS, THUMBNAILS

MAX_EXAMPLES = 8

_RESTORE = "copy the file from the original run folder"


def describe(
    title: str, num_classes: int, *, calibrated: bool, coverage: float | None, run: Path, place: Path
) -> About:
    """Return what the page says about a model.

    Args:
        title: Its name.
        num_classes: Number of its classes.
        calibrated: Whether it stores a temperature.
        coverage: Fraction of the images whose prediction set is meant to contain the true class; None without sets.
        run: Its run folder, or any other folder, which then has no metrics and no examples.
        place: An existing folder for the examples.

    Raises:
        PipelineError: If a file of the run is damaged.
    """
    said = [f"{num_classes} classes"]
    if (run / RESULTS).is_file():
        with explain_unreadable(run / RESULTS, remedy=_RESTORE):
            said += _accuracy(read_json(run / RESULTS))
    confidence = "calibrated on the validation images" if calibrated else "not calibrated, and often too high"
    examples, note = write_examples(run, place)
    facts = f"{', '.join(said)}. The confidence is {confidence}."
    return About(title, facts, coverage, examples, note)


def describe_exported(settings: Mapping[str, Any], file: Path, place: Path) -> About:
    """Return what the page says about an exported file. Metrics and examples are those of its run, if it lies there.

    Args:
        settings: The metadata of the file.
        file: The file, which `export` writes into a folder of the run by default.
        place: An existing folder for the examples.
    """
    run = file.absolute().parent.parent
    title = run.name if (run / RECORD).is_file() else file.absolute().parent.name
    return describe(
        f"{title}, {settings['precision']}",
        len(settings["class_names"]),
        calibrated=settings["temperature"] is not None,
        coverage=settings.get("coverage") if settings.get("aps_threshold") is not None else None,
        run=run if (run / RECORD).is_file() else file.parent,
        place=place,
    )


def _accuracy(metrics: Mapping[str, Any]) -> list[str]:
    for prefix, split in (("test", "test"), ("eval", "validation")):
        if isinstance(accuracy := metrics.get(f"{prefix}_accuracy"), float):
            return [f"accuracy {100 * accuracy:.2f}% on {metrics[f'{prefix}_samples']:,} {split} images"]
    return []


def write_examples(run: Path, place: Path) -> tuple[list[tuple[str, str]], str]:
    """Write the example images of a run, one for each of its first classes.

    Args:
        run: A run folder. Without thumbnails, it has no examples.
        place: An existing folder for the images.

    Returns:
        Path and class of each example, and a text that says where they are from.

    Raises:
        PipelineError: If a file of the run is damaged.
    """
    if not (run / THUMBNAILS).is_file() or not (run / PREDICTIONS).is_file():
        return [], ""
    with explain_unreadable(run / THUMBNAILS, remedy=_RESTORE):
        jpegs = read_thumbnails(run / THUMBNAILS)
        predictions, class_names = read_predictions(run / PREDICTIONS)
    split = headline_split(predictions)
    examples: list[tuple[str, str]] = []
    for number, row in Scored.of(split).typical().items():
        jpeg = jpegs.get((split.split, split.ids[row]))
        if jpeg is not None and len(examples) < MAX_EXAMPLES:
            file = place / f"example-{len(examples) + 1}.jpg"
            file.write_bytes(jpeg)
            examples.append((str(file), class_names[number]))
    return examples, f"{split.split} images, reduced to {SIDE} px"
