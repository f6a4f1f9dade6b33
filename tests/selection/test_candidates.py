"""What `--auto` tries: flags that exist and differ from its own choices; the resolution that the probes prefer."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from pipeline import config
from pipeline.arguments.settings import GROUPS
from pipeline.probing.linear import LinearProbe
from pipeline.selection.auto import choose
from pipeline.selection.candidates import Candidate, candidates
from pipeline.selection.frozen import FrozenProbe
from tests.selection.test_auto import BASE

SMALL = dataclasses.replace(BASE, parameters=2_700_000, image_size=32)


def probe(size: int, accuracy: float) -> FrozenProbe:
    nothing = np.zeros((2, 1), dtype=np.float32)
    fitted = LinearProbe(nothing, nothing[:, 0], {"accuracy": accuracy}, [])
    correct = (np.arange(1000) < 1000 * accuracy)[:: 1 if size == 32 else -1]
    return FrozenProbe(size, None if size == 32 else size, fitted, neighbors=(5, accuracy / 2), correct=correct)


def tried(facts: object = SMALL, *probes: FrozenProbe) -> list[Candidate]:
    assert isinstance(facts, type(SMALL))
    return candidates(facts, {choice.flag: choice.value for choice in choose(facts)}, probes)


@pytest.mark.parametrize("facts", [SMALL, BASE, dataclasses.replace(SMALL, from_scratch=True)])
def test_every_candidate_is_a_call_that_the_parser_accepts(facts: object) -> None:
    assert isinstance(facts, type(SMALL))
    chosen = {choice.flag: choice.value for choice in choose(facts)}
    listed = tried(facts, probe(32, 0.3), probe(48, 0.4))
    assert listed[0].flags == {}
    assert len({each.name for each in listed}) == len(listed) >= 4
    for each in listed[1:]:
        assert any(chosen.get(flag) != value for flag, value in each.flags.items())
        line = config.read_call("train", None, {"dataset_name": "photos", "auto": True})
        words = config.choices_that_fit(line, {**chosen, **each.flags})
        assert {f"--{flag}={value}" for flag, value in each.flags.items()} <= set(words)
        config.parse(dataclasses.replace(line, chosen=words), GROUPS)


def test_resolutions_with_a_better_probe_are_tried_first_with_as_many_patches() -> None:
    _, middle, large, *others = tried(SMALL, probe(32, 0.3), probe(48, 0.35), probe(64, 0.4))
    assert middle.flags == {"image_size": 48, "patch_drop_rate": 0.56}
    assert large.flags == {"image_size": 64, "patch_drop_rate": 0.75}
    assert (middle.cost, large.cost) == (2.25, 4)
    assert not any("image_size" in each.flags or each.cost != 1 for each in others)
    (only,) = (each for each in tried(SMALL, probe(32, 0.3), probe(48, 0.3), probe(64, 0.4)) if each.cost > 1)
    assert only.flags["image_size"] == 64
    assert all(each.cost == 1 for each in tried(SMALL, probe(32, 0.4), probe(48, 0.4)))
    convolutional = dataclasses.replace(SMALL, convolutional=True)
    assert tried(convolutional, probe(32, 0.3), probe(64, 0.4))[1].flags == {"image_size": 64}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({}, 1), ({"parameters": 2_700_000}, 0), ({"convolutional": True}, 0), ({"from_scratch": True}, 0)],
)
def test_large_transformers_are_tried_with_adapters(changes: dict[str, Any], expected: int) -> None:
    assert [each.flags.get("strategy") for each in tried(dataclasses.replace(BASE, **changes))].count(
        "lora"
    ) == expected


def test_a_lower_learning_rate_comes_without_mixup() -> None:
    gentle = next(each for each in tried() if each.name == "a lower learning rate")
    assert gentle.flags == {"learning_rate": 5e-4, "mixup": 0.0}
    assert next(each for each in tried(BASE) if each.name == gentle.name).flags == {"learning_rate": 2.5e-5}


def test_no_flips_are_only_tried_if_they_are_not_chosen() -> None:
    chosen = {choice.flag: choice.value for choice in choose(SMALL)}
    assert "no flips, larger crops" in [each.name for each in candidates(SMALL, chosen, [])]
    assert "no flips, larger crops" not in [each.name for each in candidates(SMALL, chosen | {"hflip": 0.0}, [])]
