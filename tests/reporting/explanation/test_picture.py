import numpy as np
import pytest
from PIL import Image

from pipeline.evaluation.explanations.explain import ClassMap, Explanation
from pipeline.evaluation.explanations.trust import Trust
from pipeline.reporting.explanation.colors import colored, scaled
from pipeline.reporting.explanation.picture import draw, drawable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain rose", "plain rose"),
        ("<b>a</b>", "<b>a</b>"),
        ("\x1b[31mred", "<U+001B>[31mred"),
        ("\u202e\U0010fffd", "<U+202E><U+10FFFD>"),
    ],
)
def test_every_character_of_a_name_is_readable(text: str, shown: str) -> None:
    assert drawable(text) == shown


def test_a_character_is_shown_as_its_number_if_the_font_lacks_it() -> None:
    for character in "ö日🌻و":  # which ones are missing depends on the fonts of the system
        assert drawable(character) in (character, f"<U+{ord(character):04X}>")


def explanation(*, trusted: bool, heads: int = 2) -> Explanation:
    rng = np.random.default_rng(0)
    trust = Trust(0.1, 0.5, 0.3, 0.3, trusted=trusted)
    relevance = rng.random((4, 4)).astype(np.float32)
    attention = rng.random((3, heads, 4, 4)).astype(np.float32) if heads else None
    pixels = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    return Explanation("a.png", pixels, [ClassMap(0, True, 0.7, relevance, trust)], attention)


def test_a_map_that_is_no_better_than_random_says_so_on_the_picture() -> None:
    names = ["x" * 200, "other"]
    good, bad = (draw(explanation(trusted=trusted), names, method="LeGrad") for trusted in (True, False))
    assert good.size == bad.size
    changed = np.argwhere((np.asarray(good) != np.asarray(bad)).any(axis=-1))
    top, left = changed.min(axis=0)
    bottom, right = changed.max(axis=0)
    assert left >= 20 + 320 + 20  # only on the map
    assert right < 20 + 2 * 320 + 20
    assert bottom - top < 32
    assert (np.asarray(bad) == Image.new("RGB", (1, 1), "#9c1c1c").getpixel((0, 0))).all(axis=-1).sum() > 3000


def test_a_network_without_class_token_has_no_attention_maps() -> None:
    names = ["a", "b"]
    with_attention, without = (draw(explanation(trusted=True, heads=h), names, method="m") for h in (2, 0))
    assert with_attention.height > without.height


def test_colors_rise_in_lightness_and_a_constant_map_has_one_color() -> None:
    lightness = colored(np.linspace(0, 1, 50)[None])[0] @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()
    assert (scaled(np.ones((2, 2)), low=1.0) == 0).all()
    assert (colored(np.zeros((2, 2))) == colored(np.ones((2, 2)))).all()
