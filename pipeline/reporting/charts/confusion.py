"""The confusion matrix as SVG: classes that are confused are neighbors, and every cell says what it counts."""

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from pipeline.evaluation.confusion import Counts, order_by_confusion
from pipeline.reporting.markup import element, shorten

MAX_CLASSES = 120
"""With more classes, only those with the most mistakes are shown."""
_MAX_COUNTED = 25  # up to this many classes, each cell has room for its count
_LONGEST_NAME = 24  # characters of a name next to the matrix
_CHARACTER = 0.62  # width of a character in font sizes
_LONGEST_TITLE = 60  # characters of a name in the text of a cell


def confusion_chart(matrix: Counts, class_names: Sequence[str]) -> tuple[Markup, int]:
    """Return the matrix as SVG, and the number of classes that it shows.

    Rows are true classes, columns are predicted classes. The opacity of a cell is the fraction of the images of its
    row, so that rare and frequent classes look the same.
    """
    order = order_classes(matrix)
    ordered = matrix[np.ix_(order, order)]
    images = np.maximum(matrix.sum(axis=1)[order], 1)
    side = max(9, min(36, 900 // len(order)))
    size = min(side, 12)
    margin = round(_CHARACTER * size * min(_LONGEST_NAME, max(len(class_names[number]) for number in order))) + 10
    extent = side * len(order)
    names = [class_names[number] for number in order]
    parts = [
        element("rect", x=0, y=0, width=extent, height=extent, class_="ground"),
        *_labels(names, side),
        *_cells(ordered, images.tolist(), names, side),
    ]
    total = extent + margin
    svg = element(
        "svg",
        *parts,
        viewBox=f"{-margin} {-margin} {total} {total}",
        width=total,
        height=total,
        role="img",
        aria_label=f"Confusion matrix of {len(order)} classes. The tables on this page hold the same numbers.",
        class_="matrix",
        font_size=size * 0.92,
    )
    return svg, len(order)


def order_classes(matrix: Counts) -> list[int]:
    """Return the classes that are shown, in an order in which those that are confused are neighbors."""
    mistakes = matrix.sum(axis=0) + matrix.sum(axis=1) - 2 * np.diag(matrix)
    shown = np.sort(np.argsort(-mistakes, kind="stable")[:MAX_CLASSES])
    order: list[int] = shown[order_by_confusion(matrix[np.ix_(shown, shown)])].tolist()
    return order


def _labels(names: Sequence[str], side: int) -> list[Markup]:
    parts = []
    turned = max(map(len, names)) * _CHARACTER * min(side, 12) > side
    for place, name in enumerate(names):
        middle = side * (place + 0.5)
        text, title = shorten(name, _LONGEST_NAME), element("title", name)
        parts.append(element("text", text, title, x=-5, y=middle, text_anchor="end", dominant_baseline="central"))
        if turned:
            turn = f"translate({middle:g} -5) rotate(-90)"
            parts.append(element("text", text, title, transform=turn, dominant_baseline="central"))
        else:
            parts.append(element("text", text, title, x=middle, y=-7, text_anchor="middle"))
    return parts


def _cells(ordered: Counts, images: Sequence[int], names: Sequence[str], side: int) -> list[Markup]:
    parts = []
    titles = [shorten(name, _LONGEST_TITLE) for name in names]
    counted = len(names) <= _MAX_COUNTED
    for row, column in zip(*np.nonzero(ordered), strict=True):
        count, share = int(ordered[row, column]), ordered[row, column] / images[row]
        verb = "recognized" if row == column else f"taken for {titles[column]}"
        title = element("title", f"{titles[row]}: {count} of {images[row]} images {verb}")
        x, y = side * int(column), side * int(row)
        hit = " hit" if row == column else ""
        parts.append(
            element(
                "rect", title, x=x, y=y, width=side, height=side, class_=f"cell{hit}",
                fill_opacity=f"{0.25 + 0.75 * share:.2f}",
            )
        )  # fmt: skip
        if counted:
            strong = " strong" if share > 0.45 else ""
            center = {"x": x + side / 2, "y": y + side / 2, "text_anchor": "middle", "dominant_baseline": "central"}
            parts.append(element("text", str(count), class_=f"count{strong}{hit}", **center))
    return parts
