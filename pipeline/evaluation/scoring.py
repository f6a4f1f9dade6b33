"""Classifier x split -> predictions -> figures; order kept, every row once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from tqdm import tqdm

from pipeline import processes, runs
from pipeline.data.labels import read_numbers
from pipeline.data.transforms import EvalTransform, collate
from pipeline.evaluation import metrics
from pipeline.evaluation.classifier import Classifier

PREFIXES = {"validation": "eval"}
"""The Trainer's ecosystem calls figures on validation `eval_*`; other splits carry their own names."""


@dataclass(frozen=True)
class Predictions:
    """One scored split: row names and numbers, labels (images,), logits (images, classes)."""

    split: str
    ids: Sequence[str]
    labels: NDArray[np.int64]
    logits: NDArray[np.float32]


def score(
    classifier: Classifier,
    split: datasets.Dataset,
    *,
    name: str,
    batch_size: int,
    num_workers: int,
    progress: bool,
) -> Predictions:
    """Run the classifier over a split with columns `image`, `label` and `index`, in its order.

    Several processes deal out the batches that one would make, so that each is computed from the same images.

    Raises:
        BadImageError: If an image cannot be read.
    """
    rows = split.with_transform(EvalTransform(classifier.processor))
    batches = [list(range(start, min(start + batch_size, len(rows)))) for start in range(0, len(rows), batch_size)]
    loader = DataLoader(rows, batch_sampler=processes.mine(batches), num_workers=num_workers, collate_fn=collate)
    bar = tqdm(loader, desc=f"score {name}", unit="batch", disable=not (progress and processes.is_main()), leave=False)
    with processes.agreement():
        share = [classifier.logits(batch["pixel_values"]) for batch in bar]
    logits = np.concatenate(processes.join(share))
    return Predictions(name, row_ids(split), read_numbers(split), logits)


def row_ids(split: datasets.Dataset) -> list[str]:
    """The path of each row where it has one, else its number in the source split."""
    plain = split.with_format("arrow").select_columns(["image", "index"])
    names: list[str] = []
    for batch in plain.iter(batch_size=1000):
        found = pc.struct_field(batch.column("image"), "path").to_pylist()
        names += [path or str(index) for path, index in zip(found, batch.column("index").to_pylist(), strict=True)]
    return names


def all_figures(predictions: Sequence[Predictions], class_names: Sequence[str]) -> dict[str, Any]:
    """`eval_*` for validation and `test_*` for test, as `all_results.json` stores them."""
    return {
        f"{PREFIXES.get(p.split, p.split)}_{key}": value
        for p in predictions
        for key, value in metrics.figures(p.logits, p.labels, class_names).items()
    }


def write_predictions(path: Path, predictions: Sequence[Predictions], class_names: Sequence[str]) -> None:
    """Write every prediction as parquet: `split`, `id`, `label`, `logits` (float32); class names in the metadata.

    Raises:
        PipelineError: If the file cannot be written.
    """
    tables = [
        pa.table(
            {
                "split": pa.array([p.split] * len(p.labels)),
                "id": pa.array(p.ids),
                "label": pa.array(p.labels),
                "logits": pa.FixedSizeListArray.from_arrays(p.logits.ravel(), p.logits.shape[1]),
            }
        )
        for p in predictions
    ]
    table = pa.concat_tables(tables).replace_schema_metadata({"class_names": json.dumps(list(class_names))})
    with runs.replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_predictions(path: Path) -> tuple[list[Predictions], list[str]]:
    """Read back what `write_predictions` wrote: the splits in their order, and the class names."""
    table = pq.read_table(path)
    names: list[str] = json.loads(table.schema.metadata[b"class_names"])
    column: Mapping[str, Any] = {name: table.column(name).to_pylist() for name in ("split", "id", "label")}
    logits = table.column("logits").combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    splits = np.asarray(column["split"])
    return [
        Predictions(
            split,
            [column["id"][i] for i in np.flatnonzero(splits == split)],
            np.asarray(column["label"], dtype=np.int64)[splits == split],
            logits[splits == split],
        )
        for split in dict.fromkeys(column["split"])
    ], names
