"""What `--auto` tries before it trains: other settings that differ in what matters for few labels."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.selection.auto import Facts
from pipeline.selection.frozen import FrozenProbe


@dataclass(frozen=True)
class Candidate:
    """Settings that could be better than those of the rules.

    Attributes:
        name: What is different, in a few words.
        flags: The flags that differ, with their values. Empty for the settings of the rules.
    """

    name: str
    flags: Mapping[str, object] = field(default_factory=dict)

    def combined(self, other: "Candidate") -> "Candidate | None":
        """Return a candidate with the flags of both, or None if they share a flag or one of them has none."""
        if not self.flags or not other.flags or self.flags.keys() & other.flags.keys():
            return None
        return Candidate(f"{self.name}, {other.name}", {**self.flags, **other.flags})


def candidates(facts: Facts, chosen: Mapping[str, object], probes: Sequence[FrozenProbe]) -> list[Candidate]:
    """Return the candidates, the cheapest first; the settings of the rules are the first one.

    Args:
        facts: What is known about the images, the network and the machine.
        chosen: The flags that the rules chose, with their values.
        probes: Linear probes at the resolution of the checkpoint and at higher ones, ascending.
    """
    return [Candidate("the settings above"), *_training(chosen), *_resolution(facts, probes)]


def _training(chosen: Mapping[str, object]) -> Iterator[Candidate]:
    # Horizontal flips and small crops change what some images mean: digits, letters, left and right.
    yield Candidate("no flips, larger crops", {"hflip": 0.0, "crop_scale": 0.7})
    if isinstance(rate := chosen.get("learning_rate"), float):
        gentle: dict[str, object] = {"learning_rate": rate / 4}
        yield Candidate("a lower learning rate", gentle | ({"mixup": 0.0} if "mixup" in chosen else {}))
    if chosen.get("augmentation") == "basic":
        yield Candidate("stronger augmentation", {"augmentation": "trivial"})


def _resolution(facts: Facts, probes: Sequence[FrozenProbe]) -> Iterator[Candidate]:
    """Yield the higher resolution with the best probe, unless the probe at the resolution of the rules is better."""
    if not probes or facts.image_size is None:
        return
    best = max(probes, key=lambda each: each.accuracy)
    if best.image_size <= facts.image_size:
        return
    flags: dict[str, object] = {"image_size": best.image_size}
    if not facts.convolutional:  # as many patches as at the resolution of the rules, so steps cost the same
        flags["patch_drop_rate"] = round(1 - (facts.image_size / best.image_size) ** 2, 2)
    yield Candidate(f"{best.image_size} px", flags)
