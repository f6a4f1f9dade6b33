"""What a flag is besides its type and its default: help, range, and the role it has in a run. Torch-free.

A flag is a dataclass field made by `flag`; everything else that the program knows of it is a query over its metadata.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.arguments.inherited import LOOP_ONLY, NEUTRAL, NOT_IN_RECIPE
from pipeline.errors import did_you_mean

ANY = object()
"""In `Flag.needs_all_images`: every value except the default."""

LOOP = ("full", "lora")
"""In `Flag.strategies`: the strategies that have a training loop."""


@dataclass(frozen=True)
class Flag:
    """The role of a flag.

    Attributes:
        short: Whether `train --help` lists it; `--help-all` lists every flag.
        neutral: Whether two calls of the same run may differ in it: it changes what is logged, cached or pushed, not
            what is learned.
        recipe: When `recipe.yaml` of a run states it: `changed` (if it differs from its default), `always` or `never`.
        needs_all_images: The values that need every training image before the first step, so that they cannot be
            combined with `--streaming`.
        strategies: The values of `--strategy` under which it has an effect. Empty: all of them.
        choices: The valid values, the usual ones first. Empty: the type says which are valid.
        minimum: The smallest valid number.
        maximum: The largest valid number.
        open_minimum: Whether the minimum itself is invalid.
        open_maximum: Whether the maximum itself is invalid.
    """

    short: bool = True
    neutral: bool = False
    recipe: str = "changed"
    needs_all_images: tuple[Any, ...] = ()
    strategies: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    open_minimum: bool = False
    open_maximum: bool = False

    def contains(self, value: float) -> bool:
        """Return whether a number is in the valid range."""
        # Written so that NaN, which is neither above nor below anything, is invalid.
        above = self.minimum is None or value > self.minimum or (value == self.minimum and not self.open_minimum)
        below = self.maximum is None or value < self.maximum or (value == self.maximum and not self.open_maximum)
        return above and below

    @property
    def valid_range(self) -> str:
        """The valid range, for an error message."""
        if self.maximum is None:
            return f"{'more than' if self.open_minimum else 'at least'} {self.minimum:g}"
        ends = [name for name, is_open in (("0", self.open_minimum), ("1", self.open_maximum)) if is_open]
        excluded = f" (excluding {' and '.join(ends)})" if ends else ""
        return f"between {self.minimum:g} and {self.maximum:g}{excluded}"


def flag(
    default: Any = dataclasses.MISSING, help: str = "", *, factory: Callable[[], Any] | None = None, **role: Any
) -> Any:
    """Return a dataclass field that is a flag.

    Args:
        default: Its default value.
        help: Its help text.
        factory: Returns the default value of a mutable type, in place of `default`.
        role: Attributes of `Flag` that differ from their defaults.
    """
    metadata = {"help": help, "flag": Flag(**role)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flags_of(group: type | Any) -> dict[str, Flag]:
    """Return the flags of a group (a dataclass or an instance of one) by name."""
    return {f.name: f.metadata.get("flag") or _inherited(f.name) for f in dataclasses.fields(group)}


def default_of(field: "dataclasses.Field[Any]") -> Any:
    """Return the default value of a flag."""
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def range_problems(group: Any) -> Iterator[str]:
    """Yield one line for each flag of a group whose number is outside its valid range."""
    for name, role in flags_of(group).items():
        value = getattr(group, name)
        if role.minimum is not None and value is not None and not role.contains(value):
            yield f"--{name} {value} is out of range: use a value {_as_words(role)}"


def choice_problems(group: Any) -> Iterator[str]:
    """Yield one line for each word of a group that is not one of the valid choices of its flag."""
    for name, role in flags_of(group).items():
        value = getattr(group, name)
        for word in value if isinstance(value, list) else [value]:
            if role.choices and word not in role.choices:
                usual = ", ".join(role.choices[:4])
                yield f"--{name} {word} is unknown{did_you_mean(str(word), role.choices)}: use {usual}, ..."


def plain(value: Any) -> Any:
    """Return an enum as its value, and what means "nothing" (empty, no tracker, "no") as None."""
    value = getattr(value, "value", value)
    return None if value in ([], {}, "", ["none"], "no") else value


def neutral_flags(*groups: type) -> frozenset[str]:
    """Return the names of the flags in which two calls of the same run may differ."""
    return frozenset(name for group in groups for name, role in flags_of(group).items() if role.neutral)


def flags_that_need_all_images(groups: Mapping[str, Any]) -> list[str]:
    """Return the flags, as typed, that need every training image before the first step."""
    found = []
    for group in groups.values():
        for field, role in zip(dataclasses.fields(group), flags_of(group).values(), strict=True):
            value = getattr(group, field.name)
            changed = ANY in role.needs_all_images and value != default_of(field)
            if changed or value in role.needs_all_images:
                found.append(f"--{field.name}" if isinstance(value, bool | int) else f"--{field.name} {value}")
    return found


def _as_words(role: Flag) -> str:
    return role.valid_range if role.maximum is not None else f"of {role.valid_range}"


def _inherited(name: str) -> Flag:
    """Return the role of a flag that only `TrainingArguments` declares."""
    return Flag(
        short=False,
        neutral=name in NEUTRAL,
        recipe="never" if name in NOT_IN_RECIPE else "changed",
        strategies=LOOP if name in LOOP_ONLY else (),
    )
