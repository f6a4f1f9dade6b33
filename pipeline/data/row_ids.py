"""Ids of rows: the path of an image relative to its dataset, or the number of its row."""

from collections import Counter

import datasets
import pyarrow.compute as pc

from pipeline.runs.files import dataset_folder, path_in_dataset


def names_and_rows(split: datasets.Dataset, dataset_name: str | None) -> tuple[list[str], list[int]]:
    """Return the path of each image relative to the dataset (empty without a path), and its row in the source split."""
    folder = dataset_folder(dataset_name)
    plain = split.with_format("arrow").select_columns(["image", "index"])
    names: list[str] = []
    rows: list[int] = []
    for batch in plain.iter(batch_size=1000):
        rows += batch.column("index").to_pylist()
        paths = pc.struct_field(batch.column("image"), "path").to_pylist()
        names += [path_in_dataset(path, folder) if path else "" for path in paths]
    return names, rows


def row_ids(split: datasets.Dataset, dataset_name: str | None) -> list[str]:
    """Return an id for each row that names no folder of this machine, because the ids are published.

    The id is the path of the image relative to the dataset (see `path_in_dataset`), or the row number in the source
    split if the image has no path. A name that occurs twice gets the row number in front.

    Args:
        split: Rows with `image` and `index`.
        dataset_name: The dataset of the split.
    """
    names, rows = names_and_rows(split, dataset_name)
    counts = Counter(names)
    return [
        (name if counts[name] == 1 else f"{row}/{name}") if name else str(row)
        for row, name in zip(rows, names, strict=True)
    ]
