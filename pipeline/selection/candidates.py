"""What `--auto` tries before it trains: other settings that differ in what matters for few labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.selection.auto import Facts
from pipeline.selection.frozen import FrozenProbe

Correct = NDArray[np.bool_]
"""Whether each validation image is classified correctly."""


@dataclass(frozen=True)
class Candidate:
    """Settings that could be better than those of the rules.

    Attributes:
        name: What is different, in a few words.
        flags: The flags that differ, with their values. Empty for the settings of the rules.
        cost: Time of a prediction, relative to the settings of the rules.
    """

    name: str
    flags: Mapping[str, object] = field(default_factory=dict)
    cost: float = 1.0

    def combined(self, other: "Candidate") -> "Candidate | None":
        """Return a candidate with the flags of both, or None if they share a flag or one of them has none."""
        if not self.flags or not other.flags or self.flags.keys() & other.flags.keys():
            return None
        return Candidate(f"{self.name}, {other.name}", {**self.flags, **other.flags}, self.cost * other.cost)


RULES = Candidate("the settings above")


def candidates(facts: Facts, chosen: Mapping[str, object], probes: Sequence[FrozenProbe]) -> list[Candidate]:
    """Return the candidates in the order in which they are tried; the settings of the rules are the first one.

    Higher resolutions follow, because the probes are evidence for them.

    Args:
        facts: What is known about the images, the network and the machine.
        chosen: The flags that the rules chose, with their values.
        probes: Linear probes at the resolution of the checkpoint and at higher ones, ascending.
    """
    higher = (candidate for candidate, _ in resolutions(facts, probes)[1:])
    return [RULES, *higher, *_adapters(facts, chosen), *_training(chosen)]


def resolutions(facts: Facts, probes: Sequence[FrozenProbe]) -> list[tuple[Candidate, Correct]]:
    """Return the settings of the rules, and the higher resolutions whose probe is better than theirs, ascending.

    Args:
        facts: What is known about the images, the network and the machine.
        probes: As for `candidates`.

    Returns:
        Each candidate, and whether the probe at its resolution classifies each validation image correctly. Empty
        without a probe at the resolution of the rules.
    """
    size = facts.image_size
    own = next((each for each in probes if each.image_size == size), None)
    if size is None or own is None:
        return []
    found = [(RULES, own.correct)]
    for probe in probes:
        if probe.image_size <= size or probe.accuracy <= own.accuracy:
            continue
        flags: dict[str, object] = {"image_size": probe.image_size}
        patches = (probe.image_size / size) ** 2  # relative to those at the resolution of the rules
        if not facts.convolutional:  # training on as many patches, so that steps cost the same
            flags["patch_drop_rate"] = round(1 - 1 / patches, 2)
        found.append((Candidate(f"{probe.image_size} px", flags, cost=patches), probe.correct))
    return found


def _adapters(facts: Facts, chosen: Mapping[str, object]) -> Iterator[Candidate]:
    # On Flowers-102, ViT-L reached 99.1% with adapters and 98.8% without them, ViT-B 98.8 and 98.9% (VeRA,
    # arXiv:2310.11454).
    if chosen.get("strategy") == "full" and not (facts.is_small or facts.from_scratch or facts.convolutional):
        yield Candidate("low-rank adapters", {"strategy": "lora", "learning_rate": 1e-3})


def _training(chosen: Mapping[str, object]) -> Iterator[Candidate]:
    # Horizontal flips and small crops change what some images mean: digits, letters, left and right.
    if chosen.get("hflip") != 0:
        yield Candidate("no flips, larger crops", {"hflip": 0.0, "crop_scale": 0.7})
    if isinstance(rate := chosen.get("learning_rate"), float):
        gentle: dict[str, object] = {"learning_rate": rate / 4}
        yield Candidate("a lower learning rate", gentle | ({"mixup": 0.0} if "mixup" in chosen else {}))
    if chosen.get("augmentation") == "basic":
        yield Candidate("stronger augmentation", {"augmentation": "trivial"})
