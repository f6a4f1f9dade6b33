"""Apply `--auto` to a command line: rules, probes and trials choose settings, or the choices of the run are kept."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline import config, distributed
from pipeline.arguments.settings import GROUPS, Settings
from pipeline.config import CommandLine
from pipeline.data import sources
from pipeline.data.report import LoadedSplits
from pipeline.selection import auto, trials
from pipeline.selection.candidates import Candidate, candidates
from pipeline.selection.frozen import fit_probes
from pipeline.selection.trials import Correct, Trial

logger = logging.getLogger(__name__)

Try = Callable[[Settings, LoadedSplits, int], Correct]
"""Trains with settings for a number of epochs; returns which validation images are classified correctly."""

_FIXED = {"max_steps", "streaming"}  # flags of the user with which a shorter training is another one
_MIN_VALIDATION = 50  # images; with fewer, the standard error of a difference is 5 points or more


@dataclass(frozen=True)
class Chosen:
    """The result of `--auto`.

    Attributes:
        line: The call, with what was chosen.
        splits: The splits if they were loaded.
        trials: All trials, for `run.json`.
    """

    line: CommandLine
    splits: LoadedSplits | None = None
    trials: Sequence[Trial] = field(default_factory=list)


def choose_settings(line: CommandLine, settings: Settings, *, of_run: Sequence[str] | None, attempt: Try) -> Chosen:
    """Return the call with settings that fit the images, the model, the machine, and the flags of the user.

    Args:
        line: The call.
        settings: Its settings without choices.
        of_run: What was chosen when the run was started, or None for a new run. It is kept, because another
            measurement of the speed could change it.
        attempt: Trains a candidate. All ranks call it.

    Raises:
        PipelineError: If the data or the model cannot be used.
    """
    if of_run is not None:
        logger.info("auto: keeping the choices of the run: %s", " ".join(of_run))
        return Chosen(dataclasses.replace(line, chosen=of_run))
    splits = sources.load_splits(settings.data)
    facts = auto.gather(settings.model, settings.trainer, splits["train"])
    facts = distributed.broadcast(facts)  # the machine of another rank may measure another speed
    choices = auto.choose(facts)
    values = {choice.flag: choice.value for choice in choices}
    kept = config.choices_that_fit(line, values)
    for choice in choices:
        overridden = choice.flag in line.given or choice.word not in kept
        logger.info("auto: %s%s", choice, " (overridden)" if overridden else "")
    for word in kept:
        if word not in {choice.word for choice in choices}:
            logger.info("auto: %s: other strategies do not use all of your flags", word.replace("=", " "))
    line = dataclasses.replace(line, chosen=kept)
    line, tried = _try_candidates(line, facts, values, splits, attempt)
    return Chosen(line, splits, tried)


def _try_candidates(
    line: CommandLine, facts: auto.Facts, values: Mapping[str, object], splits: LoadedSplits, attempt: Try
) -> tuple[CommandLine, Sequence[Trial]]:
    """Return the call with the settings that are best in the trials, and the trials."""
    settings = _settings(line)
    if (reason := _why_not(line, settings, splits)) is not None:
        if reason:
            logger.info("auto: no trials: %s", reason)
        return line, []
    is_fixed = "image_size" in line.given
    probes = [] if facts.from_scratch else fit_probes(splits, settings, size_is_fixed=is_fixed)
    usable = [each for each in candidates(facts, values, probes) if (_with(line, values, each)) is not None]
    epochs = trials.trial_epochs(int(settings.trainer.num_train_epochs))
    hours, limit = facts.hours(epochs), settings.trainer.max_hours
    budget = trials.BUDGET_HOURS if limit is None else limit / 2
    if len(usable) < 2:
        logger.info("auto: no trials: your flags fix everything that would be compared")
        return line, []
    if 2 * hours > budget:
        logger.info("auto: no trials: two of %d epochs would take longer than %.2g minutes", epochs, 60 * budget)
        return line, []

    def measure(candidate: Candidate, length: int) -> Correct:
        changed = _with(line, values, candidate)
        assert changed is not None
        return attempt(_settings(changed), splits, length)

    best, tried = trials.compare(usable, epochs, measure, budget_seconds=3600 * budget)
    logger.info("auto: %d trials chose %s", len(tried), _describe(best))
    changed = _with(line, values, best)
    assert changed is not None
    return changed, tried


def _why_not(line: CommandLine, settings: Settings, splits: LoadedSplits) -> str | None:
    """Return why nothing is tried; empty if that needs no log line, and None if trials make sense."""
    if settings.strategy.strategy == "head":
        return ""
    if fixed := sorted(_FIXED & line.given):
        return f"--{fixed[0]} fixes the length of the training"
    if distributed.world_size() > distributed.local_world_size():
        return "the processes are on several machines"
    images = len(splits["validation"])
    if images < _MIN_VALIDATION:
        return f"{images} validation images cannot tell settings apart"
    return None


def _settings(line: CommandLine) -> Settings:
    return Settings(*config.parse(line, GROUPS))


def _with(line: CommandLine, values: Mapping[str, object], candidate: Candidate) -> CommandLine | None:
    """Return the call with the flags of a candidate, or None if the user fixed or excluded one of them."""
    if candidate.flags.keys() & line.given:
        return None
    words = config.choices_that_fit(line, {**values, **candidate.flags})
    if not {f"--{flag}={value}" for flag, value in candidate.flags.items()} <= set(words):
        return None
    return dataclasses.replace(line, chosen=words)


def _describe(candidate: Candidate) -> str:
    flags = " ".join(f"--{flag} {value}" for flag, value in candidate.flags.items())
    return f"{candidate.name}{f': {flags}' if flags else ''}"
