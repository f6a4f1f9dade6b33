"""One picture for each explained image: the patch grid, the relevance maps with their trust, and the attention."""

import contextlib
import functools
from collections.abc import Sequence

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL import ImageDraw, ImageFont

from pipeline.errors import visible
from pipeline.evaluation.explanations.explain import ClassMap, Explanation
from pipeline.reporting.explanation.colors import enlarged, heat, tiled

_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")  # wherever the system has them

NOT_TRUSTED = "no better than a random map"

_TILE = 320  # the longer side of an image
_MARGIN, _GAP, _CAPTION = 20, 20, 86
_SMALL, _ROW_LABEL = 52, 60  # the longer side of an attention map; the width of `head 12`
_INK, _MUTED, _GROUND, _WARNING = "#1a1d21", "#565f6a", "#ffffff", "#9c1c1c"


def draw(explanation: Explanation, class_names: Sequence[str], *, method: str) -> PIL.Image.Image:
    """Return the picture.

    Args:
        explanation: The explained image.
        class_names: Names of the classes. Characters that the font lacks are shown as their numbers.
        method: Name of the method.
    """
    tile = _fit(explanation.pixels.shape, _TILE)
    grid = explanation.maps[0].relevance.shape
    width = _MARGIN * 2 + tile[0] * (1 + len(explanation.maps)) + _GAP * len(explanation.maps)
    attention = explanation.attention
    small = (0, 0) if attention is None else _fit((grid[0], grid[1]), _SMALL)
    below = 0
    if attention is not None:
        layers, heads = attention.shape[:2]
        below = 34 + 18 + heads * (small[1] + 4) + _MARGIN
        width = max(width, _MARGIN * 2 + _ROW_LABEL + layers * (small[0] + 4))
    picture = PIL.Image.new("RGB", (width, _MARGIN + tile[1] + _CAPTION + _MARGIN + below), _GROUND)
    height, across = explanation.pixels.shape[:2]
    _place(picture, 0, _with_grid(enlarged(explanation.pixels, tile), grid))
    _caption(picture, 0, tile, ["input of the network", f"{across} x {height} px, grid of {grid[1]} x {grid[0]}"])
    for place, each in enumerate(explanation.maps, start=1):
        shown = heat(explanation.pixels, each.relevance, tile)
        if each.trust is not None and not each.trust.trusted:
            _banner(shown, NOT_TRUSTED)
        _place(picture, place, shown)
        _caption(picture, place, tile, _lines(each, class_names[each.number], method))
    if attention is not None:
        _attention(picture, attention, small, _MARGIN + tile[1] + _CAPTION + _MARGIN)
    return picture


def drawable(text: str) -> str:
    """Return a text in which each character that the font lacks, or that has no picture, is shown as its number."""
    return "".join(c if c.isascii() or _has_glyph(c) else f"<U+{ord(c):04X}>" for c in visible(text).translate(_ANGLES))


_ANGLES = str.maketrans("⟨⟩", "<>")


@functools.cache
def _has_glyph(character: str) -> bool:
    font = _font(15)
    return bytes(font.getmask(character)) != bytes(font.getmask("\U0010fffd"))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    for name in _FONTS:
        with contextlib.suppress(OSError):
            return ImageFont.truetype(name, size)
    return ImageFont.load_default(size)  # it has the characters of ASCII only


def _lines(each: ClassMap, name: str, method: str) -> list[str]:
    kind = "predicted" if each.is_predicted else "named class"
    lines = [drawable(name), f"{kind}, {100 * each.probability:.1f}% ({method})"]
    if (trust := each.trust) is not None:
        lines.append(f"deletion {trust.deletion:.2f} (random maps {trust.random_deletion:.2f}, lower is better)")
        lines.append(f"insertion {trust.insertion:.2f} (random maps {trust.random_insertion:.2f}, higher is better)")
    return lines


def _fit(shape: Sequence[int], longer_side: int) -> tuple[int, int]:
    """Return width and height of a picture of an image with (height, width, ...)."""
    height, width = shape[:2]
    scale = longer_side / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _place(picture: PIL.Image.Image, place: int, tile: PIL.Image.Image) -> None:
    picture.paste(tile, (_MARGIN + place * (tile.width + _GAP), _MARGIN))


def _caption(picture: PIL.Image.Image, place: int, tile: tuple[int, int], lines: Sequence[str]) -> None:
    draw, left, top = ImageDraw.Draw(picture), _MARGIN + place * (tile[0] + _GAP), _MARGIN + tile[1] + 8
    for number, line in enumerate(lines):
        size = 16 if number == 0 else 12
        text = _shorten(line, _font(size), tile[0])
        draw.text((left, top), text, fill=_INK if number == 0 else _MUTED, font=_font(size))
        top += 24 if number == 0 else 18


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _with_grid(image: PIL.Image.Image, grid: Sequence[int]) -> PIL.Image.Image:
    """Return an image with thin lines between its cells."""
    lines = PIL.Image.new("L", image.size, 0)
    draw = ImageDraw.Draw(lines)
    for row in range(1, grid[0]):
        draw.line([(0, row * image.height / grid[0]), (image.width, row * image.height / grid[0])], fill=130)
    for column in range(1, grid[1]):
        draw.line([(column * image.width / grid[1], 0), (column * image.width / grid[1], image.height)], fill=130)
    return PIL.Image.composite(PIL.Image.new("RGB", image.size, _GROUND), image, lines)


def _banner(image: PIL.Image.Image, text: str) -> None:
    draw, font = ImageDraw.Draw(image), _font(15)
    draw.rectangle([(0, image.height - 30), image.size], fill=_WARNING)
    draw.text((image.width / 2, image.height - 15), text, fill=_GROUND, font=font, anchor="mm")


def _attention(picture: PIL.Image.Image, attention: NDArray[np.float32], small: tuple[int, int], top: int) -> None:
    """Draw the attention maps: one column for each layer, one row for each head, each from 0 to its maximum."""
    draw, font = ImageDraw.Draw(picture), _font(12)
    draw.text((_MARGIN, top), "attention of the class token", fill=_INK, font=_font(16))
    top += 34
    draw.text((_MARGIN, top), "layer", fill=_MUTED, font=font, anchor="lm")
    for layer, heads in enumerate(attention):
        left = _MARGIN + _ROW_LABEL + layer * (small[0] + 4)
        draw.text((left + small[0] / 2, top), str(layer + 1), fill=_MUTED, font=font, anchor="mm")
        for head, values in enumerate(heads):
            at = top + 12 + head * (small[1] + 4)
            picture.paste(tiled(values, small, low=0.0), (left, at))
            if layer == 0:
                draw.text((_MARGIN, at + small[1] / 2), f"head {head + 1}", fill=_MUTED, font=font, anchor="lm")
