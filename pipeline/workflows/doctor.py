"""`doctor`: the settings of a training -> findings about environment, data, model, memory and time."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import config, distributed, hub, watchdog
from pipeline.arguments.settings import GROUPS, Settings
from pipeline.arguments.verbs import DoctorArguments
from pipeline.config import CommandLine, checked_call
from pipeline.data.report import LoadedSplits
from pipeline.data.sources import load_splits
from pipeline.diagnosis.cost import cost
from pipeline.diagnosis.data import data, repeats
from pipeline.diagnosis.environment import environment, missing_extras, rejected_version, storage
from pipeline.diagnosis.finding import Finding, describe, errors_of
from pipeline.diagnosis.licenses import licenses
from pipeline.errors import FindingsError, PipelineError
from pipeline.images.depth import FULL_DEPTH, GrayscaleDepth, set_depth
from pipeline.models.build import build_classifier
from pipeline.runs import folder as run_folder
from pipeline.selection.settings import complete
from pipeline.training.compatibility import reject_unsupported

ARGUMENTS = (DoctorArguments, *GROUPS)


def doctor(config: str | Path | None = None, **flags: Any) -> list[Finding]:
    """Check what would stop or waste a training. Nothing is trained, and nothing is written into the run folder.

    Args:
        config: Name of a shipped recipe, or a YAML file.
        flags: The flags of `vit-pipeline train --help-all` by their names, with Python values.

    Returns:
        The findings: `level` (ok, note, warning or error), `subject`, `text` and `remedy`.

    Raises:
        PipelineError: If a flag is invalid, or flags cannot be combined.
    """
    line = checked_call("doctor", config, flags)
    return _findings(line)[1]


def run(line: CommandLine) -> str:
    """Run the verb, and return the findings as text.

    Raises:
        FindingsError: If `train` would be refused or would fail.
    """
    args, findings = _findings(line)
    as_json = json.dumps([finding.as_json() for finding in findings], indent=2, ensure_ascii=False)
    text = as_json if args.json else describe(findings)
    if any(finding.level == "error" for finding in findings):
        raise FindingsError(text)
    return text


def _findings(line: CommandLine) -> tuple[DoctorArguments, list[Finding]]:
    with distributed.fail_together():
        args, *groups = config.parse(line, ARGUMENTS)
        settings = complete(Settings(*groups, given=frozenset(line.given)), line)
    with watchdog.must_progress(settings.data.dataloader_timeout):
        return args, list(_examine(settings))


def _examine(settings: Settings) -> Iterator[Finding]:
    """Yield all findings. What needs data or model is skipped if these cannot be loaded."""
    yield from environment(settings)
    yield from missing_extras()
    yield from rejected_version()
    try:
        run_folder.check_usable(Path(str(settings.trainer.output_dir)))
    except PipelineError as error:
        yield errors_of("environment", error)
    try:
        splits = load_splits(settings.data)
    except PipelineError as error:
        yield errors_of("data", error)
        return
    objective = settings.objective
    balanced = objective.balanced_sampling or objective.class_weights != "none"
    yield from data(splits, balanced=balanced)
    yield from repeats(splits, GrayscaleDepth(splits.grayscale_bits or FULL_DEPTH.bits))
    yield from _model(splits, settings)


def _model(splits: LoadedSplits, settings: Settings) -> Iterator[Finding]:
    names = splits["train"].features["label"].names
    try:
        classifier = build_classifier(settings.model, class_names=names, seed=settings.trainer.seed)
        set_depth(classifier.processor, splits.grayscale_bits)
        reject_unsupported(classifier, settings)
    except PipelineError as error:
        yield errors_of("model", error)
        return
    height, width = classifier.input_size
    weights = sum(weight.numel() for weight in classifier.model.parameters())
    family = type(classifier.model).__name__
    yield Finding("ok", "model", f"{family} with {weights / 1e6:.3g} M parameters at {height} x {width} px")
    yield from licenses(
        {
            "base model": hub.find_model(settings.model.model_name_or_path, revision=settings.model.model_revision),
            "data": Path(str(settings.data.dataset_name)).expanduser(),
        }
    )
    yield from storage(settings, weights=weights, input_size=classifier.input_size)
    if settings.data.streaming:
        yield Finding("note", "cost", "not measured, because the images are streamed")
    elif settings.selection.auto:
        yield Finding("note", "cost", "--auto decides by itself what this machine can train; --max_hours limits it")
    else:
        yield from cost(classifier, splits, settings)
