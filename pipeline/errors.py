"""Errors made for users: what is wrong, and what to type instead. Nothing else lives here."""

import difflib
from collections.abc import Iterable


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
