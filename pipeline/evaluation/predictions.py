"""`Predictions`: the labels and logits of one scored split, and the file that holds them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.evaluation.slices.properties import ImageProperties
from pipeline.runs.files import atomic_write

_PROPERTIES = tuple(field.name for field in dataclasses.fields(ImageProperties))


@dataclass(frozen=True)
class Predictions:
    """The predictions of one split, in the order of its rows.

    Attributes:
        split: Name of the split.
        ids: Path relative to the dataset, file name or row number of each image, see `data.row_ids`.
        labels: True classes, shape (images,).
        logits: Shape (images, classes), float32.
        ood_scores: Out-of-distribution scores, shape (images,); None if the model stores no such score.
        properties: Size, file type and brightness of the images; None in files of earlier versions.
    """

    split: str
    ids: Sequence[str]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]
    ood_scores: NDArray[np.float32] | None = None
    properties: ImageProperties | None = None

    @property
    def accuracy(self) -> float:
        """Fraction of images whose predicted class is the true one."""
        return float((self.logits.argmax(axis=1) == self.labels).mean())


def write_predictions(path: Path, predictions: Sequence[Predictions], class_names: Sequence[str]) -> None:
    """Write every prediction as Parquet: `split`, `id`, `label`, `logits` (float32); class names in the metadata.

    If all splits have out-of-distribution scores, the column `ood_score` (float32) follows. If all have properties of
    the images, `width`, `height`, `format` and `brightness` follow.

    Raises:
        PipelineError: If the file cannot be written.
    """
    tables = []
    for p in predictions:
        columns = {
            "split": pa.array([p.split] * len(p.labels)),
            "id": pa.array(p.ids),
            "label": pa.array(p.labels),
            "logits": pa.FixedSizeListArray.from_arrays(p.logits.ravel(), p.logits.shape[1]),
        }
        if p.ood_scores is not None:
            columns["ood_score"] = pa.array(p.ood_scores)
        if p.properties is not None:
            columns |= {name: pa.array(getattr(p.properties, name)) for name in _PROPERTIES}
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables).replace_schema_metadata({"class_names": json.dumps(list(class_names))})
    with atomic_write(path) as temporary:
        pq.write_table(table, temporary)


def read_predictions(path: Path) -> tuple[list[Predictions], list[str]]:
    """Read what `write_predictions` wrote: the splits in their order, and the class names."""
    table = pq.read_table(path)
    names: list[str] = json.loads(table.schema.metadata[b"class_names"])
    column: Mapping[str, Any] = {name: table.column(name).to_pylist() for name in ("split", "id", "label")}
    logits = table.column("logits").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    splits = np.asarray(column["split"])
    ood = table.column("ood_score").to_numpy() if "ood_score" in table.column_names else None
    has_properties = set(_PROPERTIES) <= set(table.column_names)
    properties = [table.column(name).to_numpy() for name in _PROPERTIES if has_properties]
    return [
        Predictions(
            split,
            [column["id"][i] for i in np.flatnonzero(splits == split)],
            np.asarray(column["label"], dtype=np.int64)[splits == split],
            logits[splits == split],
            None if ood is None else ood[splits == split],
            ImageProperties(*(column[splits == split] for column in properties)) if properties else None,
        )
        for split in dict.fromkeys(column["split"])
    ], names
