"""The benchmark of `--auto` gives all sides the same images, some of which chose nothing."""

import io
from pathlib import Path

import datasets

from pipeline import load_splits
from tests.benchmarks.auto import halve_validation, write_folders
from tests.conftest import COLORS, noisy_image


def stored(seeds: range) -> datasets.Dataset:
    """Return images without file names, one of each class for each seed, as a table of bytes has them."""
    rows: dict[str, list[object]] = {"image": [], "label": [], "index": []}
    for label, color in enumerate(COLORS.values()):
        for seed in seeds:
            stream = io.BytesIO()
            noisy_image(color, seed).save(stream, format="PNG")
            rows["image"].append({"bytes": stream.getvalue(), "path": None})
            rows["label"].append(label)
            rows["index"].append(len(rows["index"]))
    return datasets.Dataset.from_dict(rows)


def test_stored_images_are_halved_by_class_and_written_as_folders(tmp_path: Path) -> None:
    splits = datasets.DatasetDict(train=stored(range(2)), validation=stored(range(10, 14)))
    halved = halve_validation(splits)
    write_folders(halved, tmp_path)
    read = load_splits(str(tmp_path))
    assert {name: len(split) for name, split in read.items()} == {"train": 6, "validation": 6, "test": 6}
    for name, split in read.items():
        assert sorted(split["label"]) == sorted(halved[name]["label"]) == [0, 0, 1, 1, 2, 2]
    assert not set(halved["validation"]["index"]) & set(halved["test"]["index"])
