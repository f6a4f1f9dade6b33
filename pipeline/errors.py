"""Errors made for users: what is wrong, and what to do."""

import difflib
import logging
from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)


def list_some(names: Sequence[str], *, at_most: int = 5) -> str:
    """Return the first names for a message, and how many more there are."""
    named = ", ".join(map(repr, names[:at_most]))
    return f"{named} and {len(names) - at_most} more" if len(names) > at_most else named


class PipelineError(Exception):
    """The user can mend this: shown in one or two lines without a traceback, exit code 2."""


class BadImageError(PipelineError):
    """An image that cannot be read, named with its file or row and the reason."""


class Terminated(Exception):  # noqa: N818 (it is no error: the run goes on when the command is repeated)
    """The run was asked to stop by SIGTERM, and wrote a checkpoint first: exit code 143."""


def refuse(problems: Iterable[str]) -> None:
    """Raise one error for all the problems found, so that they are mended in one go.

    Raises:
        PipelineError: If there is any problem.
    """
    if found := list(problems):
        raise PipelineError("\n".join(found))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
