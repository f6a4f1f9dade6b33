"""The words of a command line -> values, converted by the types of the flags. All problems are collected."""

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Union, get_args, get_origin

from pipeline.arguments.inherited import REJECTED
from pipeline.config.other_tools import explain_unknown_flag
from pipeline.errors import did_you_mean

_FLAG = re.compile(r"--?[A-Za-z][\w-]*(=|$)")  # not `-1`, and not a file such as `-a.jpg`
_BOOLS = {"true": True, "yes": True, "t": True, "y": True, "1": True} | {
    "false": False, "no": False, "f": False, "n": False, "0": False,
}  # fmt: skip


@dataclass
class Words:
    """What the words of a command line say.

    Attributes:
        values: The values of the flags by name.
        positional: The words without a flag.
        problems: One line for each flag that is unknown or whose value cannot be converted.
    """

    values: dict[str, Any] = field(default_factory=dict)
    positional: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def is_flag(word: str) -> bool:
    """Return whether a word is a flag, and not a value."""
    return bool(_FLAG.match(word))


def flag_name(word: str) -> str:
    """Return the name of a flag: `--learning-rate=1e-3` -> `learning_rate`."""
    return word.lstrip("-").partition("=")[0].replace("-", "_")


def read_words(words: Sequence[str], fields: Mapping[str, Any]) -> Words:
    """Convert the words of a command line. A flag that is given twice has its last value.

    Args:
        words: Flags as `--name value`, `--name=value` or, for a bool, `--name`; and words without a flag.
        fields: The dataclass fields of the known flags by name.
    """
    read = Words()
    for flag, following in _grouped(words):
        name, _, attached = flag.partition("=")
        name = flag_name(name)
        known = fields.get(name)
        if not flag:
            read.positional += following
        elif known is None and (off := _switched_off(name, fields)) and "=" not in flag:
            read.values[off] = False
            read.positional += following
        elif known is None or not flag.startswith("--"):
            # The words after an unknown flag are its values.
            read.problems.append(explain_unknown_flag(name, fields))
        else:
            taken = [attached] if "=" in flag else _values(known, following)
            read.positional += following if "=" in flag else following[len(taken) :]
            _convert_into(read, name, known, taken)
    return read


def _grouped(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each flag with the words up to the next flag; the flag of the first words, and of those after --, is ""."""
    flag, following = "", list[str]()
    for place, word in enumerate(words):
        if word == "--":
            yield flag, following
            flag, following = "", list(words[place + 1 :])
            break
        if is_flag(word):
            yield flag, following
            flag, following = word, []
        else:
            following.append(word)
    yield flag, following


def _switched_off(name: str, fields: Mapping[str, Any]) -> str:
    """Return the flag that `--no_NAME` switches off, for a bool that is True by default; or an empty string."""
    flag = name.removeprefix("no_")
    is_on = flag != name and flag in fields and fields[flag].type is bool and fields[flag].default is True
    return flag if is_on else ""


def _values(known: Any, following: list[str]) -> list[str]:
    """Return the words after a flag that are its value."""
    kind = _kind(known)
    if get_origin(kind) is list:
        return following
    if kind is bool and following and not _is_switch(known, following[0]):
        return []  # a switch, followed by a word that is not its value
    return following[:1]


def _convert_into(read: Words, name: str, known: Any, words: list[str]) -> None:
    kind = _kind(known)
    try:
        if get_origin(kind) is list and words:
            read.values[name] = [_convert(word, get_args(kind)[0]) for word in words]
        elif words:
            is_open = kind is bool and words[0] == "auto" and _is_switch(known, words[0])
            read.values[name] = None if is_open else _convert(words[0], kind)
        elif kind is bool:
            read.values[name] = True
        else:
            raise ValueError("has no value: add one after the flag")
    except ValueError as error:
        problem = f"--{name} {error}"
        read.problems.append(f"--{name} is not supported: {REJECTED[name]}" if name in REJECTED else problem)


def _kind(known: Any) -> Any:
    """Return the type of a flag without None."""
    if get_origin(known.type) in (Union, types.UnionType):
        return next(kind for kind in get_args(known.type) if kind is not type(None))
    return known.type


def _is_switch(known: Any, word: str) -> bool:
    """Return whether a word is a value of a bool, or `auto` for one that is None if the machine decides."""
    return word.lower() in _BOOLS or (word == "auto" and type(None) in get_args(known.type))


def _convert(word: str, kind: Any) -> Any:
    """Return a word as a value of a type.

    Raises:
        ValueError: If it is not one.
    """
    if get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}
        if word not in choices:
            raise ValueError(f"{word} is unknown{did_you_mean(word, choices)}: use {', '.join(choices)}")
        return choices[word]
    if kind is bool:
        if word.lower() not in _BOOLS:
            raise ValueError(f"{word} is not a truth value: use true or false")
        return _BOOLS[word.lower()]
    try:
        return kind(word)
    except ValueError as error:
        expected = {int: "an integer: use a value such as 42", float: "a number: use a value such as 0.001"}
        raise ValueError(f"{word} is not {expected.get(kind, 'valid: use another value')}") from error
