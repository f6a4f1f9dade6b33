"""Helpers that write small datasets to disk, and helpers that read values from loaded splits."""

import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pyarrow as pa
import pyarrow.parquet
import pytest

from pipeline.arguments.data import DataArguments
from pipeline.data.sources import load_splits

IMAGE_FEATURE = datasets.Image(decode=False)
TWO_CLASSES = datasets.ClassLabel(names=["a", "b"])


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty cache folder for `datasets`."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def png_bytes(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (3, 2), (shade % 256, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def save_images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png_bytes(number))


def save_class_folders(folder: Path, counts: Mapping[str, int]) -> Path:
    save_images(folder, *(f"{name}/{number}.png" for name, count in counts.items() for number in range(count)))
    return folder


def write_parquet(
    file: Path, labels: Iterable[Any], *, feature: Any = None, images: list[Any] | None = None, **columns: str
) -> Path:
    """Write a table of images and labels. ``columns`` overrides the names of the columns ``image`` and ``label``."""
    labels = list(labels)
    image, label = columns.get("image", "image"), columns.get("label", "label")
    rows = images or [{"bytes": png_bytes(number), "path": f"{number}.png"} for number in range(len(labels))]
    features = datasets.Features({image: datasets.Image(decode=False), label: feature or datasets.Value("string")})
    file.parent.mkdir(parents=True, exist_ok=True)
    # Arrow writes the file, because `to_parquet` would open the image paths.
    table = pa.table({image: rows, label: labels}, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, file)
    return file


def write_csv(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def load(source: Path | str, **arguments: Any) -> datasets.DatasetDict:
    return load_splits(DataArguments(dataset_name=str(source), **arguments))


def class_names_of(split: datasets.Dataset) -> list[str]:
    names: list[str] = split.features["label"].names
    return names


def label_names_of(split: datasets.Dataset) -> list[str]:
    """Return the class name of each row."""
    return [class_names_of(split)[label] for label in split["label"]]


def file_names_of(split: datasets.Dataset) -> list[str]:
    return [Path(image["path"]).name for image in split["image"]]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def assert_format(splits: datasets.DatasetDict, *names: str) -> None:
    assert list(splits) == list(names)
    (features,) = {str(split.features) for split in splits.values()}
    assert features == str(
        datasets.Features(
            {
                "image": datasets.Image(decode=False),
                "label": datasets.ClassLabel(names=class_names_of(splits["train"])),
                "index": datasets.Value("int64"),
            }
        )
    )
