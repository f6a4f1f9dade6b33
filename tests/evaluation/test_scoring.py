"""Every row is scored once and in order with any batch size; predictions are read back as they were written."""

from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest

from pipeline.arguments.data import DataArguments
from pipeline.data.row_ids import row_ids
from pipeline.data.sources import load_splits
from pipeline.errors import BadImageError, PipelineError
from pipeline.evaluation import metrics
from pipeline.evaluation.predictions import Predictions, read_predictions, write_predictions
from pipeline.evaluation.scoring import all_metrics, score
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions

COLORS = ["blue", "green", "red"]


@pytest.fixture(scope="module")
def classifier(finished_run: Path) -> ImageClassifier:
    return ImageClassifier.load(str(finished_run))


@pytest.fixture(scope="module")
def test_split(photos: Path) -> datasets.Dataset:
    return load_splits(DataArguments(dataset_name=str(photos)))["test"]


def scored(
    classifier: ImageClassifier,
    split: datasets.Dataset,
    *,
    batch_size: int = 7,
    workers: int = 0,
    dataset_name: str | None = None,
) -> Predictions:
    return score(classifier, split, LoaderOptions(batch_size, workers), name="test", dataset_name=dataset_name)


def some(split: str, *, seed: int, images: int = 20) -> Predictions:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(images, 3)).astype(np.float32)
    return Predictions(split, [f"{split}/ü {i}.png" for i in range(images)], rng.integers(0, 3, images), logits)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_keep_their_order_and_come_once(
    classifier: ImageClassifier, test_split: datasets.Dataset, photos: Path, workers: int
) -> None:
    shuffled = test_split.select(np.random.default_rng(0).permutation(18))
    predictions = scored(classifier, shuffled, workers=workers, dataset_name=str(photos))
    assert predictions.labels.tolist() == list(shuffled["label"])
    assert sorted(photos / name for name in predictions.ids) == sorted((photos / "test").rglob("*.png"))
    for name, label, logits in zip(predictions.ids, predictions.labels, predictions.logits, strict=True):
        assert Path(name).parent.name == COLORS[label]
        path = str(photos / name)
        row = test_split.filter(lambda image, path=path: image["path"] == path, input_columns="image")
        assert scored(classifier, row).logits[0] == pytest.approx(logits, abs=1e-5)


def test_the_batch_size_does_not_matter(classifier: ImageClassifier, test_split: datasets.Dataset) -> None:
    one_by_one, by_seven = (scored(classifier, test_split, batch_size=size) for size in (1, 7))
    assert one_by_one.logits.shape == (18, 3)
    assert np.abs(one_by_one.logits - by_seven.logits).max() < 1e-5


def test_rows_without_a_path_are_named_by_their_number(test_split: datasets.Dataset) -> None:
    def without_path(row: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
        return {"image": {"bytes": Path(str(row["image"]["path"])).read_bytes(), "path": None}}

    stored = test_split.map(without_path, features=test_split.features).select([5, 3, 17])
    assert row_ids(stored, None) == ["5", "3", "17"]


def test_ids_name_no_folder_of_this_machine(
    test_split: datasets.Dataset, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = [f"test/{color}/{number:03}.png" for color in COLORS for number in range(6)]
    (table := tmp_path / "labels.csv").touch()
    monkeypatch.chdir(photos.parent)
    assert row_ids(test_split, str(photos)) == inside
    assert row_ids(test_split, f"../{photos.parent.name}/{photos.name}/") == inside
    assert row_ids(test_split.select([0, 7]), str(table)) == ["000.png", "001.png"]
    assert row_ids(test_split.select([0, 6, 7]), "owner/name") == ["0/000.png", "6/000.png", "001.png"]


def test_ids_of_a_windows_machine_are_file_names(test_split: datasets.Dataset) -> None:
    def elsewhere(_row: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
        return {"image": {"bytes": b"x", "path": "C:\\Users\\ann\\rose.png"}}

    assert row_ids(test_split.select([0]).map(elsewhere, features=test_split.features), "owner/name") == ["rose.png"]


def test_a_broken_image_is_named(classifier: ImageClassifier, test_split: datasets.Dataset) -> None:
    def broken(row: dict[str, object]) -> dict[str, object]:
        return {"image": {"bytes": b"<html>", "path": None}} if row["index"] == 4 else row

    with pytest.raises(BadImageError, match="row 4: not an image"):
        scored(classifier, test_split.map(broken, features=test_split.features))


def test_predictions_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    written = [some("validation", seed=0), some("test", seed=1, images=7)]
    write_predictions(tmp_path / "predictions.parquet", written, COLORS)
    read, names = read_predictions(tmp_path / "predictions.parquet")
    assert names == COLORS
    assert [p.split for p in read] == ["validation", "test"]
    for before, after in zip(written, read, strict=True):
        assert list(after.ids) == list(before.ids)
        assert after.labels.dtype == np.int64
        assert after.labels.tolist() == before.labels.tolist()
        assert after.logits.dtype == np.float32
        assert (after.logits == before.logits).all()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.parquet"]


def test_other_programs_read_the_predictions(tmp_path: Path) -> None:
    write_predictions(tmp_path / "predictions.parquet", [some("test", seed=1)], COLORS)
    table = pyarrow.parquet.read_table(tmp_path / "predictions.parquet")
    assert table.column_names == ["split", "id", "label", "logits"]
    assert len(table["logits"][0]) == 3


def test_predictions_that_cannot_be_written_are_explained(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="cannot write"):
        write_predictions(tmp_path / "nowhere" / "predictions.parquet", [some("test", seed=1)], COLORS)


def test_metrics_have_the_prefix_of_their_split() -> None:
    validation, test = some("validation", seed=0), some("test", seed=1)
    answers = all_metrics([validation, test], COLORS)
    expected = metrics.split_metrics(test.logits, test.labels, COLORS)
    assert {key: answers[f"test_{key}"] for key in expected} == expected
    assert answers["eval_loss"] == metrics.split_metrics(validation.logits, validation.labels, COLORS)["loss"]
    assert {key.partition("_")[0] for key in answers} == {"eval", "test"}
