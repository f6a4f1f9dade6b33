"""Apply `--auto` to a call: rules, probes and trials choose settings."""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pipeline import config, distributed
from pipeline.arguments.settings import Settings
from pipeline.config import CommandLine
from pipeline.data.report import LoadedSplits
from pipeline.selection import auto, trials
from pipeline.selection.candidates import Candidate, Correct, candidates, resolutions
from pipeline.selection.frozen import FrozenProbe, fit_probes
from pipeline.selection.mirror import choose_without_flips
from pipeline.selection.settings import read_settings
from pipeline.selection.trials import Trial

logger = logging.getLogger(__name__)

Try = Callable[[Settings, LoadedSplits, int], Correct]
"""Trains with settings for a number of epochs; returns which validation images are classified correctly."""

_FIXED = {"max_steps", "streaming"}  # flags of the user with which a shorter training is another one
_FEWEST_TRIALS = 2  # fewer compare nothing
_MOST_DROPPED = 0.6  # fraction of the patches, where no trial shows what it costs
_MIN_VALIDATION = 50  # images; with fewer, the standard error of a difference is 5 points or more


@dataclass(frozen=True)
class Chosen:
    """The settings of a run, and how `--auto` came to them.

    Attributes:
        settings: The settings.
        words: What `--auto` chose, as words; None without it.
        trials: All trials, for `run.json`.
    """

    settings: Settings
    words: Sequence[str] | None = None
    trials: Sequence[Trial] = ()


def choose_settings(line: CommandLine, splits: LoadedSplits, *, attempt: Try) -> Chosen:
    """Return settings that fit the images, the model, the machine, and the flags of the user. All ranks must call it.

    Args:
        line: The call.
        splits: `train` and `validation`, with columns `image`, `label` and `index`.
        attempt: Trains a candidate. All ranks call it.

    Raises:
        PipelineError: If the data or the model cannot be used.
    """
    facts, choices = _choose_by_rules(line, _gather(read_settings(line), splits))
    values = {choice.flag: choice.value for choice in choices}
    line = _apply(line, values, choices)
    settings = read_settings(line)
    if settings.strategy.strategy == "head":
        return Chosen(settings, line.chosen)
    if (images := len(splits["validation"])) < _MIN_VALIDATION:
        logger.info("auto: no trials: %d validation images cannot tell settings apart", images)
        return Chosen(settings, line.chosen)
    probes = [] if facts.from_scratch else fit_probes(splits, settings)
    fixed = "hflip" in settings.given or settings.images.augmentation == "none"
    if probes and not fixed:
        found = choose_without_flips(probes[0], splits, settings)
        values |= {choice.flag: choice.value for choice in found}
        line = _apply(line, values, found)
    line, tried = _try_candidates(line, facts, values, probes, splits, attempt)
    return Chosen(read_settings(line), line.chosen, tried)


def _apply(line: CommandLine, values: Mapping[str, object], choices: Sequence[auto.Choice]) -> CommandLine:
    """Return the call with those values that do not conflict with a flag of the user, and log the choices."""
    kept = config.choices_that_fit(line, values)
    for choice in choices:
        if choice.flag in line.given and choice.reason == auto.FIXED:
            continue
        overridden = choice.flag in line.given or choice.word not in kept
        logger.info("auto: %s%s", choice, " (overridden)" if overridden else "")
    return dataclasses.replace(line, chosen=kept)


def _choose_by_rules(line: CommandLine, facts: auto.Facts) -> tuple[auto.Facts, list[auto.Choice]]:
    """Return the facts and the choices of the rules, for the strategy that uses all flags of the user."""
    choices = auto.choose(facts)
    (strategy,) = (choice for choice in choices if choice.flag == "strategy")
    kept = config.choices_that_fit(line, {strategy.flag: strategy.value})
    for word in kept:  # another strategy, if the chosen one ignores or rejects a flag
        if word != strategy.word:
            facts = dataclasses.replace(facts, strategy=word.partition("=")[2])
            choices = auto.choose(facts)
    return facts, choices


def _gather(settings: Settings, splits: LoadedSplits) -> auto.Facts:
    """Return the facts of rank 0, because the machine of another rank may measure another speed."""
    with distributed.fail_together():
        facts = auto.gather(settings.model, settings.trainer, splits)
        if "strategy" in settings.given:
            facts = dataclasses.replace(facts, strategy=settings.strategy.strategy)
        if "num_train_epochs" in settings.given:
            facts = dataclasses.replace(facts, epochs=settings.trainer.num_train_epochs)
        if "refit_head" in settings.given:
            facts = dataclasses.replace(facts, refit_head=settings.selection.refit_head)
        return distributed.broadcast(facts)


def _try_candidates(
    line: CommandLine,
    facts: auto.Facts,
    values: Mapping[str, object],
    probes: Sequence[FrozenProbe],
    splits: LoadedSplits,
    attempt: Try,
) -> tuple[CommandLine, Sequence[Trial]]:
    """Return the call with the settings that are best in the trials, and the trials."""
    settings = read_settings(line)
    usable = [each for each in candidates(facts, values, probes) if (_with(line, values, each)) is not None]
    length = settings.trainer.num_train_epochs
    epochs = trials.trial_epochs(max(1, int(length)))
    if (reason := _why_no_trials(settings)) is not None or len(usable) < 2:
        logger.info("auto: no trials: %s", reason or "your flags fix everything that would be compared")
        return line, []
    hours, reserved = (auto.BUDGET_HOURS, 0.0) if facts.budget_hours is None else (facts.budget_hours, length / epochs)
    if (_FEWEST_TRIALS + reserved) * facts.hours(epochs) > hours:
        training = " and the training" if reserved else ""
        logger.info("auto: no trials: two of %d epochs%s would take over %.2g minutes", epochs, training, 60 * hours)
        return _choose_resolution(line, values, usable, resolutions(facts, probes)), []

    def measure(candidate: Candidate, epochs: int) -> Correct:
        changed = _with(line, values, candidate)
        assert changed is not None
        return attempt(read_settings(changed), splits, epochs)

    best, tried = trials.compare(usable, epochs, measure, budget_seconds=3600 * hours, reserved=reserved)
    logger.info("auto: %d trials chose %s", len(tried), _describe(best))
    changed = _with(line, values, best)
    assert changed is not None
    return changed, tried


def _choose_resolution(
    line: CommandLine,
    values: Mapping[str, object],
    usable: Sequence[Candidate],
    compared: Sequence[tuple[Candidate, Correct]],
) -> CommandLine:
    """Return the call with the resolution that `cheapest_of_the_best` chooses from the probes."""
    results = [each for each in compared if each[0] in usable and _costs_no_more(each[0])]
    if not results:
        return line
    best = trials.cheapest_of_the_best(results)
    if not best.flags or (changed := _with(line, values, best)) is None:
        return line
    logger.info("auto: the probes choose %s", _describe(best))
    return changed


def _costs_no_more(candidate: Candidate) -> bool:
    """Return whether training costs as much as with the settings of the rules, and few patches are dropped for it.

    Networks without attention cannot drop patches. With three quarters of them dropped for 64 px, Flowers-102 was 3
    points below 48 px, and hand signs 16 and 24 points below 32 px (two seeds, before the head is refitted).
    """
    return not candidate.flags or 0 < float(str(candidate.flags.get("patch_drop_rate", 0))) <= _MOST_DROPPED


def _why_no_trials(settings: Settings) -> str | None:
    """Return why nothing is tried, or None if trials make sense."""
    if fixed := sorted(_FIXED & settings.given):
        return f"--{fixed[0]} fixes the length of the training"
    if distributed.world_size() > distributed.local_world_size():
        return "the processes are on several machines"
    return None


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
