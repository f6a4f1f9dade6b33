"""Sources on disk, drawn and written in a line, and what a test looks at in the splits they become."""

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

IMAGE = datasets.Image(decode=False)
TWO = datasets.ClassLabel(names=["a", "b"])


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of data sets of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def picture(shade: int = 0) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (3, 2), (shade % 256, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def draw(folder: Path, *names: str) -> None:
    for place, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(place))


def draw_classes(folder: Path, counts: Mapping[str, int]) -> Path:
    draw(folder, *(f"{name}/{place}.png" for name, count in counts.items() for place in range(count)))
    return folder


def write_parquet(
    file: Path, labels: Iterable[Any], *, feature: Any = None, images: list[Any] | None = None, **columns: str
) -> Path:
    """Write a table of images and labels; ``columns`` names them otherwise."""
    labels = list(labels)
    image, label = columns.get("image", "image"), columns.get("label", "label")
    rows = images or [{"bytes": picture(place), "path": f"{place}.png"} for place in range(len(labels))]
    features = datasets.Features({image: datasets.Image(decode=False), label: feature or datasets.Value("string")})
    file.parent.mkdir(parents=True, exist_ok=True)
    # Through Arrow, because `to_parquet` would look the paths up.
    table = pa.table({image: rows, label: labels}, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, file)
    return file


def write_csv(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def load(source: Path | str, **arguments: Any) -> datasets.DatasetDict:
    return load_splits(DataArguments(dataset_name=str(source), **arguments))


def names_of(split: datasets.Dataset) -> list[str]:
    names: list[str] = split.features["label"].names
    return names


def labels_of(split: datasets.Dataset) -> list[str]:
    """The labels by name, in order."""
    return [names_of(split)[label] for label in split["label"]]


def files_of(split: datasets.Dataset) -> list[str]:
    return [Path(image["path"]).name for image in split["image"]]


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def assert_shape(splits: datasets.DatasetDict, *names: str) -> None:
    assert list(splits) == list(names)
    (features,) = {str(split.features) for split in splits.values()}
    assert features == str(
        datasets.Features(
            {
                "image": datasets.Image(decode=False),
                "label": datasets.ClassLabel(names=names_of(splits["train"])),
                "index": datasets.Value("int64"),
            }
        )
    )
