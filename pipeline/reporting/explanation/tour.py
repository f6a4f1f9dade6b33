"""`tour.html`: one image on its way through a Vision Transformer, as one page that needs no network and no script."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import PIL.Image
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.config.names import ASSETS
from pipeline.evaluation.explanations.walk import TOP, Walk
from pipeline.reporting.charts.chart import Axis, Chart, Series, fraction_axis
from pipeline.reporting.explanation.colors import colored, enlarged, heat, scaled, tiled
from pipeline.reporting.markup import png_uri, render_template

PAGE = "tour.html"
TEMPLATE = "tour.html"

_LARGE, _SMALL = 384, 112  # the longer side of a picture in pixels

Map = NDArray[np.floating]


@dataclass(frozen=True)
class Picture:
    """A picture of a step.

    Attributes:
        image: Its address.
        alt: What it shows, for screen readers.
        caption: The text below it.
    """

    image: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Step:
    """A step of the page: two sentences, pictures, and perhaps a table and a chart.

    Attributes:
        title: Its title.
        sentences: Two sentences.
        pictures: The pictures.
        columns: Names of the columns of the table.
        rows: Rows of the table.
        chart: A chart.
        per_row: Pictures of a row. Default: as many as fit.
        has_scale: Whether the scale of the colors is shown.
    """

    title: str
    sentences: Sequence[str]
    pictures: Sequence[Picture] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    chart: Chart | None = None
    per_row: int | None = None
    has_scale: bool = False


@dataclass(frozen=True)
class _Shapes:
    """Sizes of the pictures of a walk, and words for its tokens."""

    walk: Walk
    token: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", "class token" if self.walk.num_prefix_tokens else "patches")

    def size(self, longer_side: int) -> tuple[int, int]:
        height, width = self.walk.pixels.shape[:2]
        scale = longer_side / max(height, width)
        return round(width * scale), round(height * scale)

    def map(
        self, values: Map, alt: str, caption: str = "", *, low: float | None = None, small: bool = False
    ) -> Picture:
        return Picture(png_uri(tiled(values, self.size(_SMALL if small else _LARGE), low=low)), alt, caption)


def render(walk: Walk, *, name: str) -> str:
    """Return the page.

    Args:
        walk: What the network computed.
        name: Name of the image.
    """
    shapes = _Shapes(walk)
    steps = [
        _image(walk, shapes),
        _patches(walk, shapes),
        _embeddings(walk, shapes),
        _positions(walk, shapes),
        _head(walk, shapes),
        _attention(walk, shapes),
        _layers(walk, shapes),
        _labels(walk, shapes),
    ]
    return render_template(
        TEMPLATE,
        style=Markup("\n".join((ASSETS / file).read_text(encoding="utf-8") for file in ("report.css", "tour.css"))),
        name=name,
        label=walk.class_names[int(walk.probabilities[-1].argmax())],
        network=f"Vision Transformer with {len(walk.attention)} layers",
        steps=steps,
        scale=png_uri(PIL.Image.fromarray(colored(np.linspace(0, 1, 64)[None])).resize((256, 16))),
    )


def _image(walk: Walk, shapes: _Shapes) -> Step:
    height, width = walk.pixels.shape[:2]
    return Step(
        "Image",
        (
            (
                f"The image processor turns the file into {width} x {height} pixels with 3 colors: "
                f"{walk.pixels.size:,} numbers."
            ),
            "The network never sees more than this, so details that are lost here are lost for the label.",
        ),
        [Picture(png_uri(enlarged(walk.pixels, shapes.size(_LARGE))), "the image as the network receives it")],
    )


def _patches(walk: Walk, shapes: _Shapes) -> Step:
    rows, columns = walk.grid
    height, width = walk.pixels.shape[0] // rows, walk.pixels.shape[1] // columns
    across, down = (max(1, round(side / _LARGE * 4)) for side in shapes.size(_LARGE))
    gap = max(across, down) * 3
    tile_width, tile_height = max(4, _LARGE // columns), max(4, _LARGE // rows)
    canvas = PIL.Image.new("RGB", (columns * (tile_width + gap) - gap, rows * (tile_height + gap) - gap), "#808890")
    for row in range(rows):
        for column in range(columns):
            patch = walk.pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
            tile = enlarged(patch, (tile_width, tile_height))
            canvas.paste(tile, (column * (tile_width + gap), row * (tile_height + gap)))
    return Step(
        "Patches",
        (
            f"A grid of {columns} x {rows} cuts the image into {rows * columns} patches of {width} x {height} pixels.",
            f"Each patch is a token, described by {width} x {height} x 3 = {width * height * 3:,} numbers.",
        ),
        [Picture(png_uri(canvas), f"the image cut into {rows * columns} patches")],
    )


def _embeddings(walk: Walk, shapes: _Shapes) -> Step:
    rows, columns, hidden = walk.embeddings.shape
    vectors = walk.embeddings.reshape(-1, hidden).astype(np.float64)
    vectors -= vectors.mean(axis=0)
    left, strengths, _ = np.linalg.svd(vectors, full_matrices=False)
    shown = min(3, len(strengths))
    components = np.zeros((len(vectors), 3))
    components[:, :shown] = left[:, :shown]
    share = float((strengths[:shown] ** 2).sum() / max((strengths**2).sum(), 1e-12))
    channels = np.stack([scaled(channel) for channel in components.T], axis=-1)
    pixels = (255 * channels).round().astype(np.uint8).reshape(rows, columns, 3)
    picture = PIL.Image.fromarray(pixels).resize(shapes.size(_LARGE), PIL.Image.Resampling.NEAREST)
    numbers = walk.pixels.size // (rows * columns)
    return Step(
        "Patch embeddings",
        (
            f"One linear projection maps the {numbers:,} numbers of a patch to an embedding of {hidden:,} numbers.",
            (
                f"Patches with similar colors here have similar embeddings: red, green and blue are the three main "
                f"directions in which they differ ({share:.0%} of the variance)."
            ),
        ),
        [Picture(png_uri(picture), "the patch embeddings as colors")],
    )


def _positions(walk: Walk, shapes: _Shapes) -> Step:
    title = "Position embeddings"
    if walk.positions is None:
        return Step(
            title,
            (
                "Attention does not know where a patch is, so their order would not matter.",
                (
                    "This network has no position embeddings; it adds a learned bias for each distance to the "
                    "attention scores."
                ),
            ),
        )
    rows, columns = walk.positions.shape[:2]
    places = [(row, column) for row in _spread(rows) for column in _spread(columns)]
    near = [
        walk.positions[row, column, row + down, column + right]
        for row in range(rows)
        for column in range(columns)
        for down, right in ((0, 1), (1, 0))
        if row + down < rows and column + right < columns
    ]
    neighbors = f"{np.mean(near):.2f}" if near else "not defined"
    return Step(
        title,
        (
            (
                "A learned vector for its place is added to each embedding, because attention alone does not know the "
                "order of the patches."
            ),
            (
                f"Each map shows how similar the vector of one place is to all others: the mean cosine similarity is "
                f"{neighbors} for neighbors and {walk.positions.mean():.2f} for any two places."
            ),
        ),
        [
            shapes.map(walk.positions[row, column], f"similarity to row {row + 1}, column {column + 1}", small=True)
            for row, column in places
        ],
        per_row=len(list(_spread(columns))),
        has_scale=True,
    )


def _head(walk: Walk, shapes: _Shapes) -> Step:
    head = walk.head
    row, column = np.unravel_index(int(np.argmax(head.attention)), walk.grid)
    who = "class token" if walk.num_prefix_tokens else "center patch"
    equal = 1 / (head.attention.size + walk.num_prefix_tokens)
    return Step(
        "Queries, keys and values",
        (
            (
                f"Head {head.number} of {walk.num_heads} in layer {head.layer} makes a query, a key and a value of "
                f"{head.size} numbers for each token; a query times a key gives a score, and softmax turns the "
                f"scores of one query into attention."
            ),
            (
                f"The query of the {who} gives the patch in row {row + 1}, column {column + 1}, the most attention, "
                f"{np.max(head.attention):.1%}; equal attention would be {equal:.1%}."
            ),
        ),
        [
            shapes.map(head.scores, "scores", f"query of the {who} times keys"),
            shapes.map(head.attention, "attention", "attention after softmax", low=0.0),
            shapes.map(head.values, "length of the values", "length of the values", low=0.0),
        ],
        has_scale=True,
    )


def _attention(walk: Walk, shapes: _Shapes) -> Step:
    shares = [_share_of_top_tenth(layer) for layer in walk.attention]
    who = "the class token gives to" if walk.num_prefix_tokens else "the patches give to"
    strongest = int(np.argmax(shares))
    return Step(
        "Attention by layer",
        (
            f"Each map is the attention that {who} each patch in one layer, as the mean of its {walk.num_heads} heads.",
            (
                f"The tenth of the patches with the most attention gets {shares[0]:.0%} of it in layer 1 and "
                f"{shares[-1]:.0%} in layer {len(shares)}; it gets the most in layer {strongest + 1} "
                f"({shares[strongest]:.0%})."
            ),
        ),
        [
            shapes.map(layer, f"attention in layer {number}", f"layer {number}", low=0.0, small=True)
            for number, layer in enumerate(walk.attention, start=1)
        ],
        has_scale=True,
    )


def _layers(walk: Walk, shapes: _Shapes) -> Step:
    tops, final = walk.probabilities.argmax(axis=1), int(walk.probabilities[-1].argmax())
    since = len(tops) - next((n for n, top in enumerate(reversed(tops)) if top != final), len(tops))
    points = [(number, float(each[final])) for number, each in enumerate(walk.probabilities, start=1)]
    name, start = walk.class_names[final], walk.class_names[int(tops[0])]
    axis = Axis("layer", 1, max(len(points), 2), range(1, len(points) + 1), "{:g}".format)
    return Step(
        f"The way of the {shapes.token} through the layers",
        (
            (
                f"The last norm and the head can be applied after any layer: after layer 1, the label is {start}, and "
                f"after layer {len(tops)}, it is {name}."
            ),
            (
                f"The label stays {name} from layer {since + 1} to the last one, where its probability is "
                f"{points[-1][1]:.1%}."
            ),
        ),
        chart=Chart(
            f"probability of {name} after each layer",
            axis,
            fraction_axis("probability"),
            [Series("probability of the final label", points, dots=True)],
        ),
        columns=("layer", "label", "probability"),
        rows=[
            (str(number), walk.class_names[int(top)], f"{each[top]:.1%}")
            for number, (top, each) in enumerate(zip(tops, walk.probabilities, strict=True), start=1)
        ],
    )


def _labels(walk: Walk, shapes: _Shapes) -> Step:
    last = walk.probabilities[-1]
    best = last.argsort()[::-1][:TOP]
    name = walk.class_names[int(best[0])]
    margin = f"{last[best[0]] - last[best[1]]:.1%}" if len(best) > 1 else "100.0%"
    return Step(
        "Labels",
        (
            f"Softmax over {len(last)} logits gives the probabilities; the first label leads by {margin}.",
            f"The map (LeGrad) shows the patches whose attention raises the logit of {name}, over all layers.",
        ),
        [Picture(png_uri(heat(walk.pixels, walk.relevance, shapes.size(_LARGE))), f"relevance for {name}")],
        columns=("rank", "label", "probability"),
        rows=[
            (str(rank), walk.class_names[int(number)], f"{last[number]:.1%}")
            for rank, number in enumerate(best, start=1)
        ],
        has_scale=True,
    )


def _share_of_top_tenth(attention: Map) -> float:
    """Return the part of the attention that the tenth of the patches with the most attention has."""
    ordered = np.sort(attention.ravel())[::-1]
    return float(ordered[: max(1, len(ordered) // 10)].sum() / max(ordered.sum(), 1e-12))


def _spread(count: int, at_most: int = 4) -> Iterator[int]:
    """Yield a few numbers below `count`, evenly spread."""
    yield from sorted({int(place) for place in np.linspace(0, count - 1, min(count, at_most)).round()})
