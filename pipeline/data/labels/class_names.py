"""Class names: rename them with the file of `--class_names`.

Owns the formats of this file. `read` applies the new names, and `spelling` compares names.
"""

import csv
import dataclasses
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config.names import as_path
from pipeline.data.labels.spelling import count_images, find_nearest, list_few, say_nearest
from pipeline.errors import PipelineError, list_some, raise_problems

logger = logging.getLogger(__name__)

_DEFAULT_NAME = re.compile(r"LABEL_(\d+)")  # how transformers names the classes of a model without class names


@dataclass(frozen=True)
class Reading:
    """One way to read the file of `--class_names`.

    Attributes:
        entries: The keys of each class, and its new name.
        numbered: Whether the first key is the number of the line.
        is_table: Whether the file has two columns, separated by tabs, commas or semicolons.
        problem: What is wrong with the file if it is read in this way.
    """

    entries: Sequence[tuple[tuple[str, ...], str]]
    numbered: bool = False
    is_table: bool = False
    problem: str | None = None


@dataclass(frozen=True)
class ClassNames:
    """The content of the file of `--class_names`.

    Attributes:
        file: Its name without the folder, for messages.
        readings: All ways to read it. The one whose keys match the most labels is used, because ``sea lion`` can be a
            name, or the key ``sea`` with the name ``lion``.
    """

    file: str
    readings: Sequence[Reading]

    @property
    def keys(self) -> set[str]:
        """The keys of all readings."""
        return {key for reading in self.readings for keys, _ in reading.entries for key in keys}

    def new_names(self, labels: Mapping[str, int]) -> dict[str, str]:
        """Return the new name of each label that has an entry, and log what is renamed, merged and not found.

        Args:
            labels: The class names of the data or of a model, with their numbers of images (0 for a model).

        Raises:
            PipelineError: If no label has an entry, or an integer label is not the number of a line.
        """
        matches = [(*_find_entries(reading.entries, labels), reading) for reading in self.readings]
        found, used, reading = max(matches, key=lambda match: len(match[0]))
        keys = [keys[0] for keys, _ in reading.entries]
        if reading.problem:
            raise PipelineError(f"--class_names {self.file}: {reading.problem}: correct the file")
        if not found:
            near = say_nearest(find_nearest(labels, keys), owner="the file")
            raise PipelineError(
                f"--class_names {self.file} has an entry for none of the {len(labels)} classes "
                f"({near or list_some(list(labels))}; the file has {list_some(keys)}): correct the keys in the file"
            )
        beyond = [label for label in labels if label not in found and label.isdecimal()]
        if beyond and reading.numbered:
            raise PipelineError(
                f"--class_names {self.file} has {len(keys)} names, for the labels 0 to {len(keys) - 1}, but the data "
                f"have the label {beyond[0]!r}: write one line per class: LABEL,NAME"
            )
        self._log(found, labels, unused=[key for number, key in enumerate(keys) if number not in used])
        return found

    def _log(self, found: Mapping[str, str], labels: Mapping[str, int], *, unused: Sequence[str]) -> None:
        changed = [f"{old!r} -> {new!r}" for old, new in found.items() if old != new]
        if changed:
            listed = list_few(changed)
            logger.warning("%s: renaming %d of %d classes: %s", self.file, len(changed), len(labels), listed)
        by_name: dict[str, dict[str, int]] = defaultdict(dict)
        for label, count in labels.items():
            if count:
                by_name[found.get(label, label)][label] = count
        for name, merged in by_name.items():
            if len(merged) > 1:
                logger.warning("%s: merging into %r: %s", self.file, name, count_images(merged))
        if without := [name for name in labels if name not in found and name not in found.values()]:
            logger.warning("%s: %d classes have no entry: %s", self.file, len(without), list_some(without))
        if unused:
            logger.warning("%s: ignoring %d keys that are not labels: %s", self.file, len(unused), list_some(unused))


def read_class_names(file: str) -> ClassNames:
    """Read the file of `--class_names`: text, CSV, TSV or JSON.

    A line is a key and a name (separated by a tab, a comma, or the first blank), or only a name: then the key is the
    name itself, or the number of the line from 0, also as ``LABEL_<number>``. JSON is an object of keys and names, a
    list of names, or an object with such an ``id2label``.

    Raises:
        PipelineError: If the file cannot be read, or is in no such format.
    """
    path = as_path(file)
    try:
        text = path.read_text(encoding="utf-8-sig")
        extension = path.suffix.lower()
        readings = list(_read_json(json.loads(text)) if extension == ".json" else _read_lines(text))
        if extension in (".csv", ".tsv"):  # with two columns, no line of them is a name
            readings = [reading for reading in readings if reading.is_table] or readings
    except OSError as error:
        raise PipelineError(f"--class_names {file} cannot be read ({error.strerror}): pass an existing file") from error
    except (ValueError, RecursionError, csv.Error) as error:
        raise PipelineError(f"--class_names {file} is not a valid file: {error}") from error
    readings = [reading for reading in readings if reading.entries and all(name for _, name in reading.entries)]
    if not readings:
        raise PipelineError(f"--class_names {file} contains no names: write one line per class: LABEL,NAME")
    return ClassNames(path.name, readings)


def rename_model(file: str, class_names: Sequence[str]) -> list[str]:
    """Return the names of the classes of a model that a file of `--class_names` gives.

    Raises:
        PipelineError: If the file cannot be read or does not fit, or two classes have the same new name.
    """
    new_names = read_class_names(file).new_names(dict.fromkeys(class_names, 0))
    return rename_model_classes(class_names, new_names)


def rename_model_classes(class_names: Sequence[str], new_names: Mapping[str, str]) -> list[str]:
    """Return the new names of the classes of a model.

    Raises:
        PipelineError: If two classes have the same new name.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in class_names:
        by_name[new_names.get(name, name)].append(name)
    raise_problems(
        f"the classes {list_some(old)} of the model have the same name {new!r}: give each its own name "
        "in --class_names FILE, or in id2label of its config.json"
        for new, old in by_name.items()
        if len(old) > 1
    )
    return list(by_name)


def _find_entries(
    entries: Sequence[tuple[tuple[str, ...], str]], labels: Iterable[str]
) -> tuple[dict[str, str], set[int]]:
    """Return the new names of the labels that have an entry, and the numbers of these entries."""
    number_of: dict[str, int] = {}
    for strip in (False, True):  # a label can have blanks around it, so the exact keys come first
        for number, (keys, _) in enumerate(entries):
            for key in keys:
                number_of.setdefault(key.strip() if strip else key, number)
    found: dict[str, str] = {}
    used = set()
    for label in labels:
        default = _DEFAULT_NAME.fullmatch(label)
        key = label if label in number_of or not default else default[1]
        if key in number_of:
            found[label] = entries[number_of[key]][1]
            used.add(number_of[key])
    return found, used


def _read_lines(text: str) -> Iterator[Reading]:
    lines = text.rstrip("\r\n").splitlines()
    filled = [line for line in lines if line.strip()]
    for delimiter in "\t,;":
        rows = [row for row in csv.reader(filled, delimiter=delimiter) if row]
        if all(len(row) == 2 for row in rows):
            yield dataclasses.replace(_read_pairs(rows), is_table=True)
    words = [line.split(None, 1) for line in filled]
    if all(len(row) == 2 for row in words):
        yield _read_pairs(words)
    if len(lines) == len(filled):
        yield from _read_names(lines)


def _read_json(content: Any) -> Iterator[Reading]:
    if isinstance(content, dict) and isinstance(content.get("id2label"), dict):
        content = content["id2label"]
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        yield from _read_names(content)
    elif isinstance(content, dict):
        values = content.values()
        if all(isinstance(value, str) for value in values):
            yield _read_pairs(content.items())
        elif all(isinstance(value, int) for value in values):  # a `class_to_idx` of torchvision
            yield _read_pairs((str(value), str(key)) for key, value in content.items())
        elif all(isinstance(value, list) and len(value) == 2 for value in values):  # Keras: {"0": [synset, name]}
            yield Reading([((key, str(synset)), str(name).strip()) for key, (synset, name) in content.items()])


def _read_names(names: Sequence[str]) -> Iterator[Reading]:
    """Yield both readings of a list of names: the keys are the names, or the numbers of the lines."""
    if len(set(names)) == len(names):
        # Blanks around a name are part of it only if the name without them is another class.
        exact = [name if name.strip() in names else name.strip() for name in names]
        yield Reading([((name, f"LABEL_{number}"), exact[number]) for number, name in enumerate(names)])
    by_number = [((str(number), f"LABEL_{number}"), name.strip()) for number, name in enumerate(names)]
    # A name that is a number could be mistaken for the number of a line.
    yield Reading([(keys if new.isdecimal() else (*keys, new), new) for keys, new in by_number], numbered=True)


def _read_pairs(rows: Iterable[Sequence[str]]) -> Reading:
    names: dict[str, str] = {}
    problem = None
    for key, name in rows:
        if names.setdefault(key, name.strip()) != name.strip():
            problem = f"the key {key!r} has two names, {names[key]!r} and {name.strip()!r}"
    return Reading([((key,), name) for key, name in names.items()], problem=problem)
