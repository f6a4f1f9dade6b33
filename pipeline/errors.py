"""Errors for users, and texts for them: what is wrong and what to do, without secrets and hidden characters."""

import difflib
import errno
import os
import re
import signal
import unicodedata
from collections.abc import Iterable, Sequence

_SECRET_NAME = re.compile(r"token(?!s)|secret|passw|pwd|key", re.IGNORECASE)
_SECRETS = re.compile(
    r"\b(?:(?P<hub>hf|api_org)_(?:(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{6,}|[a-z0-9]{12,})"
    r"|(?P<other>AKIA|ASIA|gh[pousr]_|github_pat_|glpat-|sk-|xox[abp]-)[A-Za-z0-9_-]{12,})"
)
_ASSIGNMENTS = re.compile(r"(?<![/\w-])(?P<name>[\w-]+)=(?P<value>[^\s'\"]+)")

# Control and format characters, unpaired surrogates, and separators of lines. Joiners are part of emoji and of scripts.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
_MAYBE_HIDDEN = re.compile(r"[^ -~\xa1-\u02ff]")

_NOT_SECRET = ("PWD", "OLDPWD")  # folders of the shell, in spite of their names
_SHORTEST_SECRET = 8  # a shorter value of a variable can be a word such as "true"

# What the user can do about an error of the system. Other errors of the system can be bugs of this program.
_REMEDIES = {
    errno.EACCES: "change its permissions, or use another path",
    errno.EPERM: "change its permissions, or use another path",
    errno.EROFS: "use a path on a file system that can be written",
    errno.ENOSPC: "free disk space, or use a path on another disk",
    errno.EDQUOT: "free disk space, or use a path on another disk",
    errno.EFBIG: "use a path on another disk",
    errno.EIO: "check the disk, or use a path on another one",
    errno.ESTALE: "check the network file system",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ELOOP: "remove the loop of links",
    errno.ENOTDIR: "use a path below a folder",
    errno.EISDIR: "use the path of a file",
    errno.EEXIST: "remove it, or use another path",
}
# What torch and `datasets` say of a process that was killed, most often because memory ran out.
_DEAD_WORKER = re.compile(r"DataLoader worker \(pid.*|One of the subprocesses has abruptly died")
_NO_MEMORY = re.compile(r"[Cc]annot allocate memory|can't allocate memory|unable to (open|mmap|allocate) shared memory")
# A data worker sends its traceback with an error; the last line is the text.
_OF_WORKER = re.compile(r"\ACaught \w+ in .*^Original Traceback.*^[\w.]+Error: ", re.DOTALL | re.MULTILINE)

_LOGIN_ERRORS = ("LocalTokenNotFoundError", "GatedRepoError", "RepositoryNotFoundError", "HfHubHTTPError")


class PipelineError(Exception):
    """A problem that the user can fix. It is shown without a traceback, and the exit code is 2."""

    def __init__(self, message: str) -> None:
        super().__init__(presentable(_OF_WORKER.sub("", message).rstrip()))


class BadImageError(PipelineError):
    """An image that cannot be read. The text names its file or row and the reason."""


class FindingsError(PipelineError):
    """The findings of `doctor` with an error, or the table of `race` with a failure: results, so they go to stdout."""


class Terminated(Exception):  # noqa: N818 (it is not an error: the same command resumes the run)
    """A signal stopped the run after a checkpoint was written. The exit code is 128 + its number."""

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.number = number


def raise_problems(problems: Iterable[str]) -> None:
    """Raise one error that lists all problems, so that the user can fix them together.

    Args:
        problems: One text for each problem. No error is raised if there are none.

    Raises:
        PipelineError: If there is at least one problem.
    """
    if found := list(dict.fromkeys(problems)):
        raise PipelineError("\n".join(found))


def is_secret(name: str) -> bool:
    """Return whether the value of a flag must never be shown: a token, a password or a key."""
    return bool(_SECRET_NAME.search(name))


def mask(text: str) -> str:
    """Replace tokens, values after `token=`, `password=` and the like, and secrets of the environment by asterisks."""
    for name, value in os.environ.items():
        if name in _NOT_SECRET:
            continue
        if len(value) >= _SHORTEST_SECRET and value in text and is_secret(name):
            text = text.replace(value, "***")
    text = _ASSIGNMENTS.sub(lambda found: f"{found['name']}=***" if is_secret(found["name"]) else found[0], text)
    return _SECRETS.sub(lambda found: f"{found['hub']}_***" if found["hub"] else f"{found['other']}***", text)


def visible(text: str, *, keep: str = "") -> str:
    """Return a text with the number of each character that has no picture, such as an escape or a direction mark.

    Args:
        text: Any text; names of classes and files can be of strangers.
        keep: Characters that stay as they are.
    """
    return _MAYBE_HIDDEN.sub(lambda found: found[0] if found[0] in keep else _symbol(found[0]), text)


def _symbol(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    return f"⟨U+{ord(character):04X}⟩"  # fonts lack the pictures that Unicode has for some of them


def presentable(text: str) -> str:
    """Return lines for a terminal: without secrets, and with control characters as their numbers."""
    return visible(mask(text), keep="\n\t")


def mask_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line without the secrets in them."""
    return [
        "***" if before.startswith("-") and "=" not in before and is_secret(before) and word[0:1] != "-" else mask(word)
        for before, word in zip(["", *words], words, strict=False)
    ]


def explain_memory(error: BaseException) -> str | None:
    """Return one line for an error that means that memory ran out, or that a data worker was killed; else None."""
    text = " ".join(str(error).split())
    if found := _DEAD_WORKER.search(text):
        return (
            f"a data worker died ({found[0].rstrip('.')}): lower --dataloader_num_workers, or give the process more "
            "memory (in a container also --shm-size); then repeat the command to resume"
        )
    kinds = {parent.__name__ for parent in type(error).__mro__}
    if kinds & {"MemoryError", "OutOfMemoryError"} or _NO_MEMORY.search(text):
        return (
            f"not enough memory ({text[:200].rstrip('.') or 'MemoryError'}): lower --per_device_train_batch_size, "
            "--per_device_eval_batch_size, --dataloader_num_workers or --image_size, or end other programs; then "
            "repeat the command"
        )
    return None


def explain_outside_error(error: BaseException) -> str | None:
    """Return one line for an error that was caused outside of this program, or None if it may be a bug.

    Causes are memory, permissions, the disk, paths, and the login of the Hub. Rust libraries name the number of the
    system's error in their text.
    """
    if (explained := explain_memory(error)) is not None:
        return explained
    if any(parent.__name__ in _LOGIN_ERRORS for parent in type(error).__mro__):
        return f"the Hub refused: {' '.join(str(error).split())[:200]}: run `hf auth login`, or set HF_TOKEN"
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(found[1])
    if number in _REMEDIES:
        path = getattr(error, "filename", None)
        where = f"{str(path)[:200]} cannot be used" if path else "a file cannot be used"
        reason = errno.errorcode[number] if not isinstance(error, OSError) else error.strerror or error
        return f"{where} ({reason}): {_REMEDIES[number]}"
    return explain_outside_error(error.__cause__) if error.__cause__ is not None else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the known word that is most similar, or an empty string."""
    similar = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {similar[0]!r}?)" if similar else ""


def list_some(names: Sequence[str], *, at_most: int = 5) -> str:
    """Return the first names for a message, and the number of the remaining ones."""
    first = ", ".join(map(repr, names[:at_most]))
    return f"{first} and {len(names) - at_most} more" if len(names) > at_most else first
