"""Apply `--auto` to a command line: choose settings and log the reasons, or keep the choices of the run."""

import dataclasses
import logging
from collections.abc import Sequence

from pipeline import config, distributed
from pipeline.arguments.settings import Settings
from pipeline.config import CommandLine
from pipeline.data import sources
from pipeline.data.report import LoadedSplits
from pipeline.selection import auto

logger = logging.getLogger(__name__)


def choose_settings(
    line: CommandLine, settings: Settings, *, of_run: Sequence[str] | None
) -> tuple[CommandLine, LoadedSplits | None]:
    """Return the call with settings that fit the images, the model, the machine, and the flags of the user.

    Args:
        line: The call.
        settings: Its settings without choices.
        of_run: What was chosen when the run was started, or None for a new run. It is kept, because another
            measurement of the speed could change it.

    Returns:
        The call, and the splits if they were loaded.

    Raises:
        PipelineError: If the data or the model cannot be used.
    """
    if of_run is not None:
        logger.info("auto: keeping the choices of the run: %s", " ".join(of_run))
        return dataclasses.replace(line, chosen=of_run), None
    splits = sources.load_splits(settings.data)
    facts = auto.gather(settings.model, settings.trainer, splits["train"])
    choices = distributed.broadcast(auto.choose(facts))  # the machine of another rank may measure another speed
    kept = config.choices_that_fit(line, {choice.flag: choice.value for choice in choices})
    for choice in choices:
        overridden = choice.flag in line.given or choice.word not in kept
        logger.info("auto: %s%s", choice, " (overridden)" if overridden else "")
    for word in kept:
        if word not in {choice.word for choice in choices}:
            logger.info("auto: %s: other strategies do not use all of your flags", word.replace("=", " "))
    return dataclasses.replace(line, chosen=kept), splits
