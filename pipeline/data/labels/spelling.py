"""Spelling of class names: which names are probably variants of one name, and how messages show them."""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

_AT_MOST = 5  # a message lists this many classes and counts the rest


def find_variants(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that differ only in case, in blanks around or between words, or in Unicode form."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_fold(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def find_nearest(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Return the known name of which each name is a variant, or the same number. Names without one are missing."""
    spelled = {_fold_number(name): name for name in known}
    return {name: spelled[_fold_number(name)] for name in names if _fold_number(name) in spelled}


def say_nearest(nearest: Mapping[str, str], *, owner: str) -> str:
    """Return ``'1', which train calls '001'`` for the result of `find_nearest`."""
    return list_few(
        [f"{_show(name, known)}, which {owner} calls {_show(known, name)}" for name, known in nearest.items()]
    )


def say_similar(names: Sequence[str], known: Iterable[str]) -> str:
    """Return ``'tullip' is similar to 'tulip'`` for the names that are probably misspelled, or an empty string."""
    known = list(known)
    similar = [(name, near[0]) for name in names if (near := difflib.get_close_matches(name, known, n=1, cutoff=0.8))]
    # Numbered classes, such as class_1 and class_2, are similar, but not misspelled.
    differ = [(name, near) for name, near in similar if re.sub(r"\d", "", name) != re.sub(r"\d", "", near)]
    return list_few([f"{name!r} is similar to {near!r}" for name, near in differ])


def count_images(counts: Mapping[str, int]) -> str:
    """Return ``'cat' (12 images), 'Cat' (1 image)`` for at most five classes, and the number of the others."""
    names = list(counts)
    return list_few(
        [f"{_show(name, *names)} ({count} image{'' if count == 1 else 's'})" for name, count in counts.items()]
    )


def _fold(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


def _fold_number(name: str) -> str:
    """Return a text that is the same for `1`, `001` and `1.0`, and for variants of a name."""
    number = re.fullmatch(r"(-?\d{1,1000})(\.0*)?", name.strip())
    return str(int(number[1])) if number else _fold(name)


def _show(name: str, *others: str) -> str:
    """Return a name in quotes, with escapes if another name has the same characters in another Unicode form."""
    composed = unicodedata.normalize("NFC", name)
    same = any(other != name and unicodedata.normalize("NFC", other) == composed for other in others)
    return ascii(name) if same else repr(name)


def list_few(items: Sequence[str]) -> str:
    """Return at most five items, separated by commas, and the number of the others."""
    more = f" and {len(items) - _AT_MOST} more" if len(items) > _AT_MOST else ""
    return ", ".join(items[:_AT_MOST]) + more
