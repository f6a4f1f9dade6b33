"""Errors for users. Their text says what is wrong and what to do."""

import difflib
from collections.abc import Iterable, Sequence


class PipelineError(Exception):
    """A problem that the user can fix. It is shown without a traceback, and the exit code is 2."""


class BadImageError(PipelineError):
    """An image that cannot be read. The text names its file or row and the reason."""


class Terminated(Exception):  # noqa: N818 (it is not an error: the same command resumes the run)
    """SIGTERM stopped the run after a checkpoint was written. The exit code is 143."""


def raise_problems(problems: Iterable[str]) -> None:
    """Raise one error that lists all problems, so that the user can fix them together.

    Args:
        problems: One text for each problem. No error is raised if there are none.

    Raises:
        PipelineError: If there is at least one problem.
    """
    if found := list(problems):
        raise PipelineError("\n".join(found))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word that is most similar, or an empty string."""
    similar = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {similar[0]!r}?)" if similar else ""


def list_some(names: Sequence[str], *, at_most: int = 5) -> str:
    """Return the first names for a message, and the number of the remaining ones."""
    first = ", ".join(map(repr, names[:at_most]))
    return f"{first} and {len(names) - at_most} more" if len(names) > at_most else first
