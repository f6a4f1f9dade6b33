"""Texts of strangers are shown literally, whatever they contain."""

import pytest
from markupsafe import Markup

from pipeline.errors import visible
from pipeline.reporting.markup import data_uri, element, finalize, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain rose", "plain rose"),
        ("Löwenzahn 日本 🌻 👩‍🌾 ورد", "Löwenzahn 日本 🌻 👩‍🌾 ورد"),
        ("\x1b[31mred\x07", "⟨U+001B⟩[31mred⟨U+0007⟩"),
        ("a\nb\tc\x00", "a⟨U+000A⟩b⟨U+0009⟩c⟨U+0000⟩"),
        ("\x7f\x9b", "⟨U+007F⟩⟨U+009B⟩"),
        ("abc\u202edef\u2066", "abc⟨U+202E⟩def⟨U+2066⟩"),
        ("\ufeffzero\u200bwidth", "⟨U+FEFF⟩zero⟨U+200B⟩width"),
        ("\udcff.jpg", "⟨U+DCFF⟩.jpg"),
        ("\u2028", "⟨U+2028⟩"),
    ],
)
def test_characters_without_a_picture_become_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    shown.encode()


def test_elements_escape_texts_and_keep_elements() -> None:
    inner = element("b", "<script>")
    assert inner == "<b>&lt;script&gt;</b>"
    outer = element("p", inner, "a & b\x1b", class_="x", aria_label='"quoted"', title=None)
    assert outer == '<p class="x" aria-label="&#34;quoted&#34;"><b>&lt;script&gt;</b>a &amp; b⟨U+001B⟩</p>'
    assert isinstance(outer, Markup)


def test_finalize_changes_texts_only() -> None:
    assert finalize("\x1b") == "⟨U+001B⟩"
    assert finalize(Markup("\n")) == "\n"
    assert finalize(3) == 3


def test_long_texts_are_cut() -> None:
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
    assert data_uri(None) is None
    assert data_uri(b"\xff\xd8") == "data:image/jpeg;base64,/9g="
