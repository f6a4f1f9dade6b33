"""Streams: each epoch has every image once, each rank has the same number of batches, and the order is reproducible."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import PIL.Image
import pytest
import torch

from pipeline import hub
from pipeline.arguments.data import DataArguments
from pipeline.data.report import fingerprint
from pipeline.data.sources import load_split, load_splits
from pipeline.data.streaming import Stream, StreamShard
from pipeline.errors import PipelineError
from pipeline.images.transforms import Batch
from tests.data.conftest import TWO_CLASSES, write_parquet

NUM_IMAGES = 23  # in files of 10, 10 and 3 images


def png_bytes(shade: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    for number, start in enumerate(range(0, NUM_IMAGES, 10)):
        shades = range(start, min(start + 10, NUM_IMAGES))
        images: list[Any] = [{"bytes": png_bytes(shade), "path": f"{shade}.png"} for shade in shades]
        write_parquet(folder / f"train-{number}.parquet", [s % 2 for s in shades], feature=TWO_CLASSES, images=images)
    images = [{"bytes": png_bytes(100 + shade), "path": None} for shade in range(6)]
    write_parquet(folder / "validation.parquet", [0, 1] * 3, feature=TWO_CLASSES, images=images)
    return folder


def rows_of(folder: Path, *splits: str) -> datasets.IterableDatasetDict:
    files = {split: [str(file) for file in sorted(folder.glob(f"{split}*.parquet"))] for split in splits}
    found: datasets.IterableDatasetDict = datasets.load_dataset("parquet", data_files=files, streaming=True)
    return found


@pytest.fixture
def stream(folder: Path) -> Stream:
    rows = rows_of(folder, "train")["train"].cast_column("image", datasets.Image(decode=False))
    return Stream(rows, num_images=NUM_IMAGES, identity="1", skip_bad_images=False)


def shades_and_indices(batch: Batch) -> Batch:
    """Return the shade of each image, which identifies it, and the index that its augmentation is sampled with."""
    shades = [PIL.Image.open(io.BytesIO(row["bytes"])).tobytes()[0] for row in batch["image"]]
    pixels = [torch.tensor(pair, dtype=torch.int64) for pair in zip(shades, batch["index"], strict=True)]
    return {"pixel_values": pixels, "labels": batch["label"]}


def shard_of(stream: Stream, *, epoch: int = 0, batch_size: int = 4) -> StreamShard:
    shared_epoch = torch.tensor(epoch).share_memory_()
    return StreamShard(stream, shades_and_indices, batch_size=batch_size, seed=7, epoch=shared_epoch)


def shades_in(shard: StreamShard) -> list[int]:
    return [int(row["pixel_values"][0]) for row in shard]


def test_epoch_has_every_image_and_only_full_batches(stream: Stream) -> None:
    shard = shard_of(stream)
    seen = shades_in(shard)
    assert len(seen) == len(shard) == 24  # full batches of 4
    assert set(seen) == set(range(NUM_IMAGES))
    assert set(seen[:NUM_IMAGES]) == set(range(NUM_IMAGES))  # one complete pass, then the beginning of the next


def test_order_depends_on_the_epoch(stream: Stream) -> None:
    shard = shard_of(stream)
    first, again = shades_in(shard), shades_in(shard)
    shard.epoch.fill_(1)
    assert first == again != shades_in(shard)
    assert sorted(first) != first


def test_augmentation_index_does_not_depend_on_the_order(stream: Stream) -> None:
    epochs = [{int(s): int(i) for s, i in (row["pixel_values"] for row in shard_of(stream, epoch=e))} for e in (0, 1)]
    assert epochs[0] == epochs[1]
    assert len(set(epochs[0].values())) == NUM_IMAGES


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_read_different_images_and_equal_numbers_of_batches(
    stream: Stream, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    parts = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(shades_in(shard_of(stream, batch_size=2)))
    assert len({len(part) for part in parts}) == 1  # with different lengths, ranks would wait for each other forever
    counts = Counter(shade for part in parts for shade in part)
    if world == 2:  # three files cannot be divided by 2, so images are assigned round-robin
        assert set(counts) == set(range(NUM_IMAGES))
    firsts = [set(part[:3]) for part in parts]
    assert all(not a & b for i, a in enumerate(firsts) for b in firsts[:i])


def test_workers_divide_the_batches_of_a_rank(stream: Stream) -> None:
    loader = shard_of(stream, batch_size=7).loader(batch_size=4, num_workers=2, prefetch_factor=None, pin_memory=False)
    assert loader.num_workers == 2
    for epoch in (0, 1):
        loader.dataset.epoch.fill_(epoch)  # type: ignore[attr-defined]
        batches = list(loader)
        assert len(batches) == len(loader) == 6
        assert {len(batch["labels"]) for batch in batches} == {4}


def test_bad_images_are_skipped_and_an_empty_stream_raises_an_error(tmp_path: Path) -> None:
    images = [{"bytes": png_bytes(1), "path": None}, {"bytes": b"no image", "path": None}]
    write_parquet(tmp_path / "train.parquet", [0, 1], feature=TWO_CLASSES, images=images)
    rows = rows_of(tmp_path, "train")["train"].cast_column("image", datasets.Image(decode=False))
    skipping = Stream(rows, num_images=2, identity="1", skip_bad_images=True)
    assert shades_in(shard_of(skipping, batch_size=2)) == [1, 1]
    write_parquet(tmp_path / "train.parquet", [1], feature=TWO_CLASSES, images=images[1:])
    with pytest.raises(
        PipelineError, match="the stream contains no labeled, readable image for this rank: remove --streaming"
    ):
        shades_in(shard_of(skipping, batch_size=2))


# --- loading by name


@pytest.fixture
def hub_dataset(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace the Hub client. The test changes the returned dict; `tests/test_hub.py` streams from a real server."""
    description: dict[str, Any] = {"splits": ("train", "validation"), "sizes": {"train": NUM_IMAGES}}

    def open_dataset(*_: Any) -> hub.StreamedDataset:
        return hub.StreamedDataset(rows_of(folder, *description["splits"]), description["sizes"], "v1")

    monkeypatch.setattr(hub, "stream_hub_dataset", open_dataset)
    return description


def load(**changes: Any) -> datasets.DatasetDict:
    return load_splits(DataArguments(dataset_name="owner/name", streaming=True, **changes))


def test_train_is_a_stream_and_validation_is_downloaded(hub_dataset: dict[str, Any]) -> None:
    splits = load()
    assert isinstance(splits["train"], Stream)
    assert len(splits["train"]) == NUM_IMAGES
    assert splits["train"].features["label"].names == ["a", "b"]
    assert splits["validation"]["label"][:] == [0, 1] * 3
    assert len(fingerprint(splits)) == 16
    hub_dataset["sizes"]["train"] = NUM_IMAGES + 1
    assert fingerprint(load()) != fingerprint(splits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"splits": ("train",)},
            "owner/name cannot be streamed because it has no validation split: remove --streaming",
        ),
        ({"sizes": {}}, "its dataset card does not give the number of training images"),
    ],
)
def test_dataset_that_cannot_be_streamed_raises_an_error(
    hub_dataset: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    hub_dataset |= changes
    with pytest.raises(PipelineError, match=message):
        load()


def test_label_column_without_class_names_cannot_be_streamed(
    hub_dataset: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    del hub_dataset, folder
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    rows = rows_of(tmp_path, "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "stream_hub_dataset", lambda *_: hub.StreamedDataset(rows, {"train": 2}, "v1"))
        with pytest.raises(
            PipelineError, match="the class names in column label are known only after reading every row"
        ):
            load()


def test_streaming_works_only_with_hub_datasets_and_training(folder: Path) -> None:
    args = DataArguments(dataset_name=str(folder), streaming=True)
    with pytest.raises(PipelineError, match="is a local folder; --streaming works with Hub datasets only"):
        load_splits(args)
    with pytest.raises(PipelineError, match="--streaming works with the train command only: remove --streaming"):
        load_split(args, split=None, class_names=["a", "b"])
