"""The same images and labels give the same splits in every form in which a dataset can be stored."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import PIL.Image
import pyarrow.parquet
import pytest

from pipeline.arguments.data import DataArguments
from pipeline.data.labels.read import natural_order
from pipeline.data.report import fingerprint
from pipeline.data.sources import load_splits
from pipeline.images.decode import open_image
from tests.conftest import SHARED, noisy_image
from tests.data.conftest import class_names_of, label_names_of, write_parquet

pytestmark = pytest.mark.usefixtures("empty_cache")

Export = Callable[[Path, Sequence["Photo"]], dict[str, Any]]
SHARED_SETS = ("flowers102-64px", "sign-digits-64px")


class Photo(NamedTuple):
    split: str
    name: str
    label: str
    content: bytes


def render_photos(*, train: int = 4, validation: int = 2) -> list[Photo]:
    """Return JPEGs of classes whose names need quotes, are not ASCII or look like a number."""
    photos: list[Photo] = []
    for c, label in enumerate(("12", "colt's foot", "Gänseblümchen", "rose, yellow")):
        for split, count in (("train", train), ("validation", validation)):
            for number in range(count):
                stream = io.BytesIO()
                noisy_image((60 * c, 90, 40), seed=100 * c + number).save(stream, "JPEG", quality=70 + len(photos))
                photos.append(Photo(split, f"img_{len(photos):03}.jpg", label, stream.getvalue()))
    return in_order(photos)


def read_shared(name: str, *, classes: int | None = None, train: int = 1000, validation: int = 1000) -> list[Photo]:
    """Return the first images of the first classes of a shared set."""
    photos = []
    for split, most in (("train", train), ("validation", validation)):
        rows = datasets.Dataset(pyarrow.parquet.read_table(SHARED / name / f"{split}.parquet"))
        names = rows.features["label"].names
        left = dict.fromkeys(names[:classes], most)
        for number, row in enumerate(rows.cast_column("image", datasets.Image(decode=False))):
            label = names[row["label"]]
            if left.get(label, 0):
                left[label] -= 1
                file = f"{split}_{number:04}.jpg"  # some of the images have no name, or the same in both splits
                photos.append(Photo(split, file, label, row["image"]["bytes"]))
    return in_order(photos)


def in_order(photos: Iterable[Photo]) -> list[Photo]:
    """Return the photos in the order in which class folders are listed."""
    return sorted(photos, key=lambda photo: (photo.split, photo.label, photo.name))


def save(photos: Iterable[Photo], place: Callable[[Photo], Path]) -> None:
    for photo in photos:
        file = place(photo)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo.content)


def by_split(photos: Iterable[Photo]) -> dict[str, list[Photo]]:
    splits: dict[str, list[Photo]] = {}
    for photo in photos:
        splits.setdefault(photo.split, []).append(photo)
    return splits


def labels_of(photos: Iterable[Photo]) -> list[str]:
    return natural_order({photo.label for photo in photos})


def write_table(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",") -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter).writerows([header, *rows])


# Each function writes the photos in one form below a folder, and returns the flags that this form needs.


def as_class_folders(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / photo.split / photo.label / photo.name)
    return {}


def as_splits_below_class_folders(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / photo.label / photo.split / photo.name)
    return {}


def as_nested_class_folders(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / photo.split / photo.label / f"{photo.label} in May" / "raw" / photo.name)
    return {}


def as_class_folders_with_the_same_subfolders(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    days: dict[str, str] = {}
    for _, group in itertools.groupby(photos, key=lambda photo: (photo.split, photo.label)):
        rows = list(group)
        days |= {row.name: f"day {2 * place // len(rows)}" for place, row in enumerate(rows)}
    save(photos, lambda photo: root / "data" / photo.split / photo.label / days[photo.name] / photo.name)
    listed = root / "classes.json"  # without it, the days could be the classes, and the error says so
    listed.write_text(json.dumps(labels_of(photos)), encoding="utf-8")
    return {"dataset_name": str(root / "data"), "class_names": str(listed)}


def as_class_folders_in_a_wrapper(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / "download" / "photos" / photo.split / photo.label / photo.name)
    return {}


def as_csv_with_file_names(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / "images" / photo.name)
    for split, rows in by_split(photos).items():
        write_table(root / f"{split}.csv", ["file_name", "label"], ((f"images/{row.name}", row.label) for row in rows))
    return {}


def as_csv_with_a_split_column(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / "images" / photo.name)
    rows = [(photo.label, photo.split, f"images/{photo.name}") for photo in photos]
    write_table(root / "labels.csv", ["species", "split", "path"], rows)
    return {}


def as_csv_with_ids_and_semicolons(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / f"{photo.split}_images" / photo.name)
    for split, rows in by_split(photos).items():
        ids = [(Path(row.name).stem, row.label) for row in rows]
        write_table(root / f"{split}.csv", ["id", "breed"], ids, delimiter=";")
    return {}


def as_one_hot_csv(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / photo.split / photo.name)
    labels = labels_of(photos)
    for split, rows in by_split(photos).items():
        ones = [(row.name, *(int(row.label == label) for label in labels)) for row in rows]
        write_table(root / split / "_classes.csv", ["filename", *labels], ones)
    return {}


def as_tsv_with_windows_paths(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / "images" / photo.split / photo.name)
    for split, rows in by_split(photos).items():
        paths = [(rf"C:\Users\me\images\{split}\{row.name}", row.label) for row in rows]
        write_table(root / f"{split}.tsv", ["image_path", "class"], paths, delimiter="\t")
    return {}


def as_json_lines(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / photo.split / photo.name)
    for split, rows in by_split(photos).items():
        lines = (json.dumps({"file_name": row.name, "label": row.label}) for row in rows)
        (root / split / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return {}


def as_json_array(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    save(photos, lambda photo: root / "images" / photo.name)
    for split, rows in by_split(photos).items():
        table = [{"image": f"images/{row.name}", "label": row.label, "width": 20} for row in rows]
        (root / f"{split}.json").write_text(json.dumps(table, indent=1, ensure_ascii=False), encoding="utf-8")
    return {}


def as_parquet(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    for split, rows in by_split(photos).items():
        images = [{"bytes": row.content, "path": row.name} for row in rows]
        write_parquet(root / f"{split}.parquet", [row.label for row in rows], images=images)
    return {}


def as_parquet_with_class_labels(root: Path, photos: Sequence[Photo]) -> dict[str, Any]:
    names = labels_of(photos)
    for split, rows in by_split(photos).items():
        images = [{"bytes": row.content, "path": row.name} for row in rows]
        indices = [names.index(row.label) for row in rows]
        file = root / "data" / f"{split}-00000-of-00001.parquet"
        write_parquet(file, indices, feature=datasets.ClassLabel(names=names), images=images, image="img")
    return {}


FORMS = (
    as_class_folders,
    as_splits_below_class_folders,
    as_nested_class_folders,
    as_class_folders_with_the_same_subfolders,
    as_class_folders_in_a_wrapper,
    as_csv_with_file_names,
    as_csv_with_a_split_column,
    as_csv_with_ids_and_semicolons,
    as_one_hot_csv,
    as_tsv_with_windows_paths,
    as_json_lines,
    as_json_array,
    as_parquet,
    as_parquet_with_class_labels,
)
every_form = pytest.mark.parametrize("export", FORMS, ids=lambda form: form.__name__.removeprefix("as_"))


def expected_fingerprint(photos: Sequence[Photo]) -> str:
    """Return the fingerprint of the splits, built from the photos without a file."""
    names = labels_of(photos)
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.ClassLabel(names=names), index=datasets.Value("int64")
    )
    splits = {}
    for split, rows in by_split(photos).items():
        columns = {
            "image": [{"bytes": row.content, "path": row.name} for row in rows],
            "label": [names.index(row.label) for row in rows],
            "index": list(range(len(rows))),
        }
        splits[split] = datasets.Dataset.from_dict(columns, features=features)
    return fingerprint(datasets.DatasetDict(splits))


def assert_the_same(splits: datasets.DatasetDict, photos: Sequence[Photo]) -> None:
    """Check splits, class names, label and pixels of each image, and the fingerprint."""
    expected = by_split(photos)
    assert list(splits) == list(expected)
    for name, rows in expected.items():
        assert class_names_of(splits[name]) == labels_of(photos)
        assert label_names_of(splits[name]) == [row.label for row in rows]
        for value, row in zip(splits[name]["image"], rows, strict=True):
            assert Path(value["path"]).name == row.name
            pixels = np.asarray(PIL.Image.open(io.BytesIO(row.content)).convert("RGB"))
            np.testing.assert_array_equal(np.asarray(open_image(value, name=row.name)), pixels)
    assert fingerprint(splits) == expected_fingerprint(photos)


def load_export(export: Export, root: Path, photos: Sequence[Photo]) -> datasets.DatasetDict:
    flags: dict[str, Any] = {"dataset_name": str(root)} | export(root, photos)
    return load_splits(DataArguments(**flags))


@every_form
def test_rendered_images_are_the_same_in_every_form(export: Export, tmp_path: Path) -> None:
    photos = render_photos()
    assert_the_same(load_export(export, tmp_path, photos), photos)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared images")
@pytest.mark.parametrize("name", SHARED_SETS)
@every_form
def test_photographs_are_the_same_in_every_form(name: str, export: Export, tmp_path: Path) -> None:
    photos = read_shared(name, classes=3, train=4, validation=2)
    assert len(photos) == 3 * (4 + 2)
    assert_the_same(load_export(export, tmp_path, photos), photos)
