"""`relevance.parquet`: what the network looked at in the images of the galleries, so that the report needs no dataset.

These are the most confident mistakes and the least confident hits of the split whose accuracy is the result. The file
holds the input of the network as a small JPEG and the relevance map of the predicted class as numbers.
"""

import io
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.evaluation.examples import Scored
from pipeline.evaluation.explanations.explain import Explainer, Explanation
from pipeline.evaluation.explanations.trust import FRACTIONS
from pipeline.evaluation.predictions import Predictions
from pipeline.evaluation.thumbnails import headline_split
from pipeline.images.transforms import EvalTransform
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions, run_inference
from pipeline.runs.files import atomic_write

logger = logging.getLogger(__name__)

SIDE = 112  # longer side of the pictures in pixels
RANDOM_MAPS = 3
BUDGET = 30.0
"""Seconds for the comparison with random maps. With a slow network, only the first maps are compared."""
PASSES = 2 + 2 * (len(FRACTIONS) - 2) * (1 + RANDOM_MAPS)
"""Forward passes that comparing one map takes."""
_BATCH = 8
_QUALITY = 80


@dataclass(frozen=True)
class ShownMap:
    """The relevance map of the predicted class of an image.

    Attributes:
        jpeg: The input of the network.
        relevance: (rows, columns), not negative.
        trusted: Whether it is better than random maps; None if it was not compared.
    """

    jpeg: bytes
    relevance: NDArray[np.float32]
    trusted: bool | None


@dataclass(frozen=True)
class Gallery:
    """The relevance maps of a run.

    Attributes:
        method: Name of the method; empty if the network cannot be explained.
        problem: Why the network cannot be explained; empty if it can.
        maps: The map of each (split, id).
    """

    method: str
    problem: str
    maps: Mapping[tuple[str, str], ShownMap]


def explain_gallery(
    classifier: ImageClassifier,
    predictions: Sequence[Predictions],
    splits: Mapping[str, datasets.Dataset],
    *,
    images_per_second: float,
) -> Gallery:
    """Return the relevance maps of the galleries. All ranks must call it.

    Args:
        classifier: The model.
        predictions: Its predictions for the scored splits.
        splits: Their rows with `image` and `index`, in the same order.
        images_per_second: Speed of the forward passes, from which follows how many maps are compared within `BUDGET`.

    Raises:
        BadImageError: If an image cannot be read.
    """
    shown = headline_split(predictions)
    scored = Scored.of(shown)
    mistakes, hits = scored.confident_mistakes(), scored.uncertain_hits()
    # Alternating, so that maps of both galleries are compared.
    order = sorted([*enumerate(mistakes), *enumerate(hits)], key=lambda ranked: ranked[0])
    rows = [row for _, row in order]
    compared = int(BUDGET * images_per_second / PASSES)
    try:
        explainer = Explainer(classifier, named=None, random_maps=RANDOM_MAPS)
    except PipelineError as error:
        logger.info("report.html has no relevance maps: %s", error)
        return Gallery("", str(error).partition(": ")[0], {})
    maps: dict[tuple[str, str], ShownMap] = {}
    for part, explainer.random_maps in ((rows[:compared], RANDOM_MAPS), (rows[compared:], 0)):
        for row, explanation in zip(part, _explain(explainer, splits[shown.split], part), strict=True):
            maps[shown.split, shown.ids[row]] = _shown(explanation)
    return Gallery(explainer.method.name, "", maps)


def _explain(explainer: Explainer, split: datasets.Dataset, rows: Sequence[int]) -> list[Explanation]:
    def forward(batch: dict[str, Any]) -> list[Explanation]:
        count = len(batch["pixel_values"])
        return explainer.explain_batch(batch | {"names": [""] * count, "problems": [None] * count})

    if not rows:
        return []
    images = split.select(rows).with_transform(EvalTransform(explainer.classifier.processor))
    options = LoaderOptions(batch_size=_BATCH)
    batches = run_inference(explainer.classifier.model, images, forward, options, description="explain")
    return [explanation for batch in batches for explanation in batch]


def _shown(explanation: Explanation) -> ShownMap:
    (predicted,) = explanation.maps
    picture = PIL.Image.fromarray(explanation.pixels)
    picture.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=_QUALITY, optimize=True)
    trusted = None if predicted.trust is None else predicted.trust.trusted
    return ShownMap(content.getvalue(), predicted.relevance, trusted)


def write_gallery(path: Path, gallery: Gallery) -> None:
    """Write the maps as Parquet: `split`, `id`, `jpeg`, `rows`, `relevance`, `trusted`; method and problem as metadata.

    Raises:
        PipelineError: If the file cannot be written.
    """
    shown = list(gallery.maps.values())
    table = pa.table(
        {
            "split": pa.array([split for split, _ in gallery.maps], pa.string()),
            "id": pa.array([name for _, name in gallery.maps], pa.string()),
            "jpeg": pa.array([each.jpeg for each in shown], pa.binary()),
            "rows": pa.array([len(each.relevance) for each in shown], pa.int32()),
            "relevance": pa.array([each.relevance.ravel() for each in shown], pa.list_(pa.float32())),
            "trusted": pa.array([each.trusted for each in shown], pa.bool_()),
        }
    ).replace_schema_metadata({"gallery": json.dumps({"method": gallery.method, "problem": gallery.problem})})
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary)


def read_gallery(path: Path) -> Gallery:
    """Read what `write_gallery` wrote."""
    table = pq.ParquetFile(path).read()
    named: dict[str, str] = json.loads(table.schema.metadata[b"gallery"])
    maps = {
        (row["split"], row["id"]): ShownMap(
            row["jpeg"], np.asarray(row["relevance"], dtype=np.float32).reshape(row["rows"], -1), row["trusted"]
        )
        for row in table.to_pylist()
    }
    return Gallery(named["method"], named["problem"], maps)
