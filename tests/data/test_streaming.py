"""A stream: every image once in an epoch, as many batches for each process, the same after a resume."""

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
from pipeline.arguments.images import AugmentationArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.strategy import AdaptationArguments
from pipeline.data import streaming
from pipeline.data.sources import fingerprint, load_split, load_splits
from pipeline.data.streaming import Share, Stream
from pipeline.errors import PipelineError
from pipeline.images.transforms import Batch
from tests.data.conftest import TWO, write_parquet

IMAGES = 23  # in files of 10, 10 and 3


def picture(shade: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stream")
    for number, start in enumerate(range(0, IMAGES, 10)):
        shades = range(start, min(start + 10, IMAGES))
        images: list[Any] = [{"bytes": picture(shade), "path": f"{shade}.png"} for shade in shades]
        write_parquet(folder / f"train-{number}.parquet", [s % 2 for s in shades], feature=TWO, images=images)
    images = [{"bytes": picture(100 + shade), "path": None} for shade in range(6)]
    write_parquet(folder / "validation.parquet", [0, 1] * 3, feature=TWO, images=images)
    return folder


def rows_of(folder: Path, *splits: str) -> datasets.IterableDatasetDict:
    files = {split: [str(file) for file in sorted(folder.glob(f"{split}*.parquet"))] for split in splits}
    found: datasets.IterableDatasetDict = datasets.load_dataset("parquet", data_files=files, streaming=True)
    return found


@pytest.fixture
def stream(folder: Path) -> Stream:
    rows = rows_of(folder, "train")["train"].cast_column("image", datasets.Image(decode=False))
    return Stream(rows, images=IMAGES, identity="1", skips_bad=False)


def shade_of(batch: Batch) -> Batch:
    """The shade of the image, which tells one from another, and the index that its augmentation is drawn by."""
    shades = [PIL.Image.open(io.BytesIO(row["bytes"])).tobytes()[0] for row in batch["image"]]
    pixels = [torch.tensor(pair, dtype=torch.int64) for pair in zip(shades, batch["index"], strict=True)]
    return {"pixel_values": pixels, "labels": batch["label"]}


def share_of(stream: Stream, *, epoch: int = 0, batch_size: int = 4) -> Share:
    told = torch.tensor(epoch).share_memory_()
    return Share(stream, shade_of, batch_size=batch_size, seed=7, epoch=told)


def shades(share: Share) -> list[int]:
    return [int(row["pixel_values"][0]) for row in share]


def test_an_epoch_has_every_image_and_fills_its_last_batch(stream: Stream) -> None:
    share = share_of(stream)
    seen = shades(share)
    assert len(seen) == len(share) == 24  # whole batches of 4
    assert set(seen) == set(range(IMAGES))
    assert set(seen[:IMAGES]) == set(range(IMAGES))  # one pass, then the beginning of the next


def test_the_order_is_a_function_of_the_epoch(stream: Stream) -> None:
    share = share_of(stream)
    first, again = shades(share), shades(share)
    share.epoch.fill_(1)
    assert first == again != shades(share)
    assert sorted(first) != first


def test_what_is_drawn_for_an_image_does_not_depend_on_the_order(stream: Stream) -> None:
    epochs = [{int(s): int(i) for s, i in (row["pixel_values"] for row in share_of(stream, epoch=e))} for e in (0, 1)]
    assert epochs[0] == epochs[1]
    assert len(set(epochs[0].values())) == IMAGES


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_an_epoch(stream: Stream, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    parts = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(shades(share_of(stream, batch_size=2)))
    assert len({len(part) for part in parts}) == 1  # or they would wait for each other without end
    counts = Counter(shade for part in parts for shade in part)
    if world == 2:  # which does not divide the three files: images are dealt out in turn
        assert set(counts) == set(range(IMAGES))
    firsts = [set(part[:3]) for part in parts]
    assert all(not a & b for i, a in enumerate(firsts) for b in firsts[:i])


def test_workers_share_what_a_process_has(stream: Stream) -> None:
    loader = share_of(stream).loader(num_workers=2, prefetch_factor=None, pin_memory=False)
    assert loader.num_workers == 2
    for epoch in (0, 1):
        loader.dataset.epoch.fill_(epoch)  # type: ignore[attr-defined]
        batches = list(loader)
        assert len(batches) == len(loader) == 6
        assert {len(batch["labels"]) for batch in batches} == {4}


def test_a_bad_image_stops_the_stream_or_is_left_out(tmp_path: Path) -> None:
    images = [{"bytes": picture(1), "path": None}, {"bytes": b"no image", "path": None}]
    write_parquet(tmp_path / "train.parquet", [0, 1], feature=TWO, images=images)
    rows = rows_of(tmp_path, "train")["train"].cast_column("image", datasets.Image(decode=False))
    skipping = Stream(rows, images=2, identity="1", skips_bad=True)
    assert shades(share_of(skipping, batch_size=2)) == [1, 1]
    write_parquet(tmp_path / "train.parquet", [1], feature=TWO, images=images[1:])
    with pytest.raises(PipelineError, match="a stream gave no image at all"):
        shades(share_of(skipping, batch_size=2))


# --- from a name


@pytest.fixture
def on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the Hub's client would say of the data set; `tests/test_hub.py` streams from a server."""
    known: dict[str, Any] = {"splits": ("train", "validation"), "sizes": {"train": IMAGES}}

    def opened(*_: Any) -> hub.StreamedDataset:
        return hub.StreamedDataset(rows_of(folder, *known["splits"]), known["sizes"], "v1")

    monkeypatch.setattr(hub, "stream_hub_dataset", opened)
    return known


def load(**changes: Any) -> datasets.DatasetDict:
    return load_splits(DataArguments(dataset_name="owner/name", streaming=True, **changes))


def test_train_is_a_stream_and_validation_is_whole(on_the_hub: dict[str, Any]) -> None:
    splits = load()
    assert isinstance(splits["train"], Stream)
    assert len(splits["train"]) == IMAGES
    assert splits["train"].features["label"].names == ["a", "b"]
    assert splits["validation"]["label"][:] == [0, 1] * 3
    assert len(fingerprint(splits)) == 16
    on_the_hub["sizes"]["train"] = IMAGES + 1
    assert fingerprint(load()) != fingerprint(splits)


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"splits": ("train",)}, "owner/name cannot be streamed: it has no validation split. Leave out --streaming."),
        ({"sizes": {}}, "its card does not say how many train images it has"),
    ],
)
def test_what_cannot_be_streamed(on_the_hub: dict[str, Any], known: dict[str, Any], message: str) -> None:
    on_the_hub |= known
    with pytest.raises(PipelineError, match=message):
        load()


def test_labels_without_names_cannot_be_streamed(on_the_hub: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    del on_the_hub, folder
    write_parquet(tmp_path / "train.parquet", ["a", "b"])
    rows = rows_of(tmp_path, "train")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub, "stream_hub_dataset", lambda *_: hub.StreamedDataset(rows, {"train": 2}, "v1"))
        with pytest.raises(PipelineError, match="the names of its classes are known only when all of label is read"):
            load()


def test_only_a_hub_data_set_is_streamed_and_only_to_train(folder: Path) -> None:
    args = DataArguments(dataset_name=str(folder), streaming=True)
    with pytest.raises(PipelineError, match="is Parquet, here already: leave out --streaming"):
        load_splits(args)
    with pytest.raises(PipelineError, match="--streaming is for training"):
        load_split(args, split=None, class_names=["a", "b"])


def test_what_needs_all_images_first_is_named() -> None:
    data = DataArguments(streaming=True, max_train_samples=5)
    model = ModelArguments(head_init="probe")
    augmentation = AugmentationArguments(balanced_sampling=True)
    adaptation = AdaptationArguments(strategy="head", baseline=True, recipe="auto")
    assert list(streaming.find_problems(data, model, augmentation, adaptation)) == [
        "--strategy head", "--head_init probe", "--baseline", "--recipe auto", "--balanced_sampling",
        "--max_train_samples",
    ]  # fmt: skip
    assert not list(
        streaming.find_problems(DataArguments(), ModelArguments(), AugmentationArguments(), AdaptationArguments())
    )
