"""`load` and `load_splits`: a model and a dataset as Python values, for notebooks and scripts."""

from pathlib import Path
from typing import Any

import datasets

from pipeline import config
from pipeline.arguments.data import DataArguments
from pipeline.data import sources
from pipeline.models.classifier import ImageClassifier


def load(model: str | Path, *, revision: str = "main") -> ImageClassifier:
    """Load a run folder, a local model folder, or a Hub model, in fp32 on the accelerator if there is one.

    Args:
        model: The folder, or the Hub id.
        revision: Branch, tag or commit of a Hub model.

    Raises:
        PipelineError: If the model is missing, is not an image classifier, or lacks any weight.
    """
    return ImageClassifier.load(model, revision=revision)


def load_splits(dataset_name: str | Path, **flags: Any) -> datasets.DatasetDict:
    """Load a dataset as `train` sees it: splits with the columns `image`, `label` and `index`.

    Args:
        dataset_name: Hub id, local folder, synthetic-flowers or oxford-flowers-102.
        flags: The data flags of `vit-pipeline train --help` by their names, with Python values.

    Returns:
        `train`, `validation` and, if the data has one, `test`. `image` holds undecoded bytes or a path, `label` is a
        `ClassLabel` with the same names in every split, and `index` is the number of the row in its source. The
        attribute `report` says what was skipped, ignored, renamed or merged.

    Raises:
        PipelineError: If a flag or the data cannot be used.
    """
    line = config.read_call("train", None, {"dataset_name": dataset_name} | flags)
    (args,) = config.parse(line, (DataArguments,))
    return sources.load_splits(args)
