"""`thumbnails.parquet`: small JPEGs of the images that the report shows, so that it needs no dataset.

Of the scored images, only those of one split are stored, the one whose accuracy is the result of the run: test, or
validation without test. They are those of `Scored.shown_rows`: the most confident mistakes, the least confident hits,
two images for each of the most confused pairs, and one image for each class. Images of any split that the audit of the
data shows are stored too. Images are stored until the limit of `MAX_BYTES` is reached, so a run with thousands of
classes has no image for some of them.
"""

import io
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.evaluation.examples import Scored
from pipeline.evaluation.predictions import Predictions
from pipeline.images.decode import open_image
from pipeline.images.depth import GrayscaleDepth
from pipeline.runs.files import atomic_write

SIDE = 64  # longer side in pixels
QUALITY = 70
MAX_BYTES = 3_000_000


def headline_split(predictions: Sequence[Predictions]) -> Predictions:
    """Return the predictions whose accuracy is the result of the run: those of test, or the last ones without test."""
    return next((p for p in predictions if p.split == "test"), predictions[-1])


def write_thumbnails(
    path: Path,
    predictions: Sequence[Predictions],
    splits: Mapping[str, datasets.Dataset],
    depth: GrayscaleDepth,
    more: Mapping[str, Mapping[int, str]] | None = None,
) -> None:
    """Write the thumbnails of a run as Parquet: `split`, `id` (as in `predictions.parquet`) and `jpeg`.

    Args:
        path: The file.
        predictions: The predictions of the scored splits.
        splits: Their rows with `image` and `index`, in the same order. Only the selected images are read.
        depth: How 16-bit grayscale is scaled.
        more: Split -> row -> id of other images that are stored, before those of the scored split.

    Raises:
        BadImageError: If an image cannot be read.
        PipelineError: If the file cannot be written.
    """
    headline = headline_split(predictions)
    ids = {split: dict(rows) for split, rows in (more or {}).items()}
    scored = ids.setdefault(headline.split, {})
    scored |= {row: headline.ids[row] for row in Scored.of(headline).shown_rows()}
    columns: dict[str, list[Any]] = {"split": [], "id": [], "jpeg": []}
    total = 0
    for split, rows in ids.items():
        for row, jpeg in _jpegs(splits[split], list(rows), depth):
            if (total := total + len(jpeg)) > MAX_BYTES:
                break
            for column, value in zip(columns.values(), (split, rows[row], jpeg), strict=True):
                column.append(value)
    schema = pa.schema({"split": pa.string(), "id": pa.string(), "jpeg": pa.binary()})
    with atomic_write(path) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary, compression="none")  # JPEGs are compressed


def read_thumbnails(path: Path) -> dict[tuple[str, str], bytes]:
    """Return the JPEG of each (split, id)."""
    table = pq.ParquetFile(path).read(["split", "id", "jpeg"])
    splits, ids, jpegs = (table.column(name).to_pylist() for name in ("split", "id", "jpeg"))
    return dict(zip(zip(splits, ids, strict=True), jpegs, strict=True))


def _jpegs(split: datasets.Dataset, rows: Sequence[int], depth: GrayscaleDepth) -> Iterator[tuple[int, bytes]]:
    for row in rows:
        value, index = operator.itemgetter("image", "index")(split[row])
        image = open_image(value, name=value["path"] or f"row {index}", min_side=SIDE, depth=depth)
        image.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
        content = io.BytesIO()
        image.save(content, "JPEG", quality=QUALITY, optimize=True)
        yield row, content.getvalue()
