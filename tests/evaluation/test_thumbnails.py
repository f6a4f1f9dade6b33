"""`thumbnails.parquet` holds small JPEGs of the images that the report shows, and of no others."""

import io
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.errors import BadImageError
from pipeline.evaluation import thumbnails
from pipeline.evaluation.examples import Scored
from pipeline.evaluation.thumbnails import SIDE, headline_split, read_thumbnails, write_thumbnails
from pipeline.images.depth import FULL_DEPTH
from tests.reporting.made_runs import image_rows, random_predictions


def rows_of(*contents: bytes) -> datasets.Dataset:
    """Return rows with images of these bytes."""
    features = datasets.Features(image=datasets.Image(decode=False), index=datasets.Value("int64"))
    images = [{"bytes": content, "path": None} for content in contents]
    return datasets.Dataset.from_dict({"image": images, "index": list(range(len(images)))}, features=features)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def test_the_shown_images_of_test_are_stored(tmp_path: Path) -> None:
    validation, test = random_predictions("validation", 40, 4), random_predictions("test", 300, 4, seed=1)
    splits = {"validation": image_rows(40), "test": image_rows(300)}
    write_thumbnails(tmp_path / "t.parquet", [validation, test], splits, FULL_DEPTH)
    stored = read_thumbnails(tmp_path / "t.parquet")
    shown = Scored.of(test).shown_rows()
    assert list(stored) == [("test", test.ids[row]) for row in shown]
    for row, jpeg in zip(shown, stored.values(), strict=True):
        with (
            Image.open(io.BytesIO(jpeg)) as thumbnail,
            Image.open(io.BytesIO(splits["test"][row]["image"]["bytes"])) as full,
        ):
            assert thumbnail.format == "JPEG"
            assert max(thumbnail.size) == SIDE
            difference = np.asarray(thumbnail).mean((0, 1)) - np.asarray(full).mean((0, 1))
            assert np.abs(difference).max() < 3
    assert pq.read_schema(tmp_path / "t.parquet").names == ["split", "id", "jpeg"]


def test_without_test_the_images_of_validation_are_stored(tmp_path: Path) -> None:
    validation = random_predictions("validation", 40, 4)
    write_thumbnails(tmp_path / "t.parquet", [validation], {"validation": image_rows(40)}, FULL_DEPTH)
    assert {split for split, _ in read_thumbnails(tmp_path / "t.parquet")} == {"validation"}
    assert headline_split([validation]) is validation


def test_the_most_important_images_are_kept_if_they_are_too_large_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = random_predictions("test", 300, 4)
    write_thumbnails(tmp_path / "all.parquet", [test], {"test": image_rows(300)}, FULL_DEPTH)
    complete = list(read_thumbnails(tmp_path / "all.parquet").items())
    monkeypatch.setattr(thumbnails, "MAX_BYTES", sum(len(jpeg) for _, jpeg in complete[:10]))
    write_thumbnails(tmp_path / "few.parquet", [test], {"test": image_rows(300)}, FULL_DEPTH)
    assert list(read_thumbnails(tmp_path / "few.parquet").items()) == complete[:10]


def test_images_are_upright_rgb_and_small_ones_are_not_enlarged(tmp_path: Path) -> None:
    turned = Image.new("RGB", (100, 50), (200, 30, 30)).getexif()
    turned[0x0112] = 6
    rotated = encoded(Image.new("RGB", (100, 50), (200, 30, 30)), "JPEG", exif=turned.tobytes())
    gray = encoded(Image.new("LA", (20, 10), (90, 255)), "PNG")
    long = encoded(Image.new("RGB", (3000, 2), (0, 0, 0)), "PNG")
    predictions = random_predictions("test", 3, 3)
    write_thumbnails(tmp_path / "t.parquet", [predictions], {"test": rows_of(rotated, gray, long)}, FULL_DEPTH)
    stored = read_thumbnails(tmp_path / "t.parquet")
    sizes = [Image.open(io.BytesIO(stored["test", name])).size for name in predictions.ids]
    assert sizes == [(32, 64), (20, 10), (64, 1)]


def test_an_image_that_has_become_unreadable_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match=r"^row 0: "):
        write_thumbnails(
            tmp_path / "t.parquet", [random_predictions("test", 1, 2)], {"test": rows_of(b"no")}, FULL_DEPTH
        )
    assert list(tmp_path.iterdir()) == []
