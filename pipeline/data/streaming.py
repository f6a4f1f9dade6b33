"""Streaming: train on a Hub dataset while its train split is downloaded, without storing the split on disk.

Owns the order of the images, and how they are divided among ranks and data loader workers. The validation and test
splits are downloaded before training, because every evaluation needs all of their images.
"""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import datasets
from datasets.distributed import split_dataset_by_node
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline import distributed, hub
from pipeline.arguments.data import DataArguments
from pipeline.data.columns import find_columns
from pipeline.data.splits import name_splits
from pipeline.errors import BadImageError, PipelineError
from pipeline.hub.parquet import refusals_shown
from pipeline.images.augmentation import derive_seed
from pipeline.images.decode import open_image
from pipeline.images.transforms import Batch, ImageLoader

logger = logging.getLogger(__name__)

Transform = Callable[[Batch], Batch]

_SHUFFLE_BUFFER = 1000  # encoded images per worker, from which the next image is sampled at random


class Stream:
    """The streamed train split: its rows in the order of download, and its metadata.

    Attributes:
        rows: Rows with `image` (undecoded bytes) and `label`.
        features: The columns; `label` is a `ClassLabel`.
        identity: A string that changes when the dataset changes on the Hub.
        skip_bad_images: Skip unreadable images with a warning. Otherwise they raise an error.
    """

    def __init__(
        self, rows: datasets.IterableDataset, *, num_images: int, identity: str, skip_bad_images: bool
    ) -> None:
        self.rows, self.features, self.identity, self.skip_bad_images = rows, rows.features, identity, skip_bad_images
        self._num_images = num_images

    def __len__(self) -> int:
        """Return the number of images in an epoch, as given in the dataset card."""
        return self._num_images


class StreamShard(IterableDataset[dict[str, Any]]):
    """The shard of a stream that one rank reads in an epoch. Every rank gets the same number of complete batches.

    The row groups of Parquet files (for other formats, the files) are shuffled and assigned to ranks and workers. Each
    worker then samples images at random from a shuffle buffer. The order depends only on (seed, epoch), so a resumed
    epoch continues with the same images; it downloads the previous images again. If a rank or worker has too few
    images for its batches, it starts another pass. The augmentation of an image depends on its bytes, not on the order.
    """

    def __init__(self, stream: Stream, transform: Transform, *, batch_size: int, seed: int, epoch: Tensor) -> None:
        """Initialize the shard.

        Args:
            stream: The train split.
            transform: Turns a batch of rows into model inputs.
            batch_size: Images per batch and rank, until `loader` is called with another number.
            seed: The seed of the order.
            epoch: The current epoch, as a tensor in shared memory that the trainer updates.
        """
        self.stream, self.transform, self.batch_size = stream, transform, batch_size
        self.seed, self.epoch = seed, epoch

    @property
    def dataset(self) -> "StreamShard":
        """Return the dataset that the Trainer iterates over."""
        return self

    @property
    def num_batches(self) -> int:
        """Batches of this rank in an epoch."""
        return -(-len(self.stream) // (self.batch_size * distributed.world_size()))

    def __len__(self) -> int:
        """Return the number of images of this rank in an epoch."""
        return self.num_batches * self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield transformed rows. Inside a data loader worker, yield only the rows of this worker's batches."""
        worker = get_worker_info()
        worker_id, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        rows = itertools.chain.from_iterable(self._one_pass(number) for number in itertools.count())
        return itertools.islice(rows, len(range(worker_id, self.num_batches, num_workers)) * self.batch_size)

    def loader(
        self, *, batch_size: int, num_workers: int, prefetch_factor: int | None, pin_memory: bool
    ) -> DataLoader[Any]:
        """Return a data loader with the batches of this rank. It has at most one worker per file or row group."""
        self.batch_size = batch_size
        workers = min(num_workers, self._shuffled_rows(0).num_shards)
        return ImageLoader(
            self,
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch_factor if workers else None,
            pin_memory=pin_memory,
        )

    def _shuffled_rows(self, pass_number: int) -> datasets.IterableDataset:
        seed = derive_seed(self.seed, int(self.epoch), pass_number)
        # One file at a time: with several, `datasets` reads them in threads and sleeps for 5 s at the end.
        rows = self.stream.rows.shuffle(seed=seed, buffer_size=_SHUFFLE_BUFFER, max_buffer_input_shards=1)
        return split_dataset_by_node(rows, distributed.rank(), distributed.world_size())

    def _one_pass(self, pass_number: int) -> Iterator[dict[str, Any]]:
        num_images = 0
        for row in self._shuffled_rows(pass_number):
            index = int.from_bytes(hashlib.blake2b(row["image"]["bytes"] or b"", digest_size=8).digest()) >> 1
            unlabeled = row["label"] is None or row["label"] < 0
            if unlabeled or (self.stream.skip_bad_images and not _is_readable(row["image"])):
                continue
            num_images += 1
            batch = self.transform({"image": [row["image"]], "label": [row["label"]], "index": [index]})
            yield {key: values[0] for key, values in batch.items()}
        if not num_images:
            raise PipelineError("the stream contains no labeled, readable image for this rank: remove --streaming")


def open_stream(args: DataArguments) -> tuple[Stream, dict[str, datasets.Dataset]]:
    """Open a Hub dataset for streaming.

    Returns:
        The train split as a stream, and the other splits, downloaded completely, with all their columns.

    Raises:
        PipelineError: If the dataset cannot be streamed.
    """
    name = str(args.dataset_name)
    found = hub.stream_hub_dataset(name, args.dataset_config_name, args.dataset_revision)
    splits = name_splits(found.splits)
    features = next(iter(splits.values())).features
    if features is None:
        raise _not_streamable(name, "its dataset card does not list its columns")
    columns = find_columns(features, image=args.image_column_name, label=args.label_column_name)
    if not isinstance(features[columns.label], datasets.ClassLabel):
        raise _not_streamable(name, f"the class names in column {columns.label} are known only after reading every row")
    for required in ("train", "validation"):
        if required not in splits:
            raise _not_streamable(name, f"it has no {required} split")
    num_images = found.sizes.get(next(key for key, rows in found.splits.items() if rows is splits["train"]))
    if not num_images:
        raise _not_streamable(name, "its dataset card does not give the number of training images")
    rows = splits["train"].reshard().select_columns([columns.image, columns.label])
    for old, new in ((columns.image, "image"), (columns.label, "label")):
        rows = rows if old == new else rows.rename_column(old, new)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    if next(iter(rows))["image"]["bytes"] is None:
        raise _not_streamable(name, "its images are stored as separate files")
    logger.info("streaming %s: %d training images in %d files or row groups", name, num_images, rows.num_shards)
    stream = Stream(rows, num_images=num_images, identity=found.identity, skip_bad_images=args.bad_images == "skip")
    others = {key: split for key, split in splits.items() if key != "train"}
    return stream, {
        key: _download(split.cast_column(columns.image, datasets.Image(decode=False)), f"{found.identity} {key}")
        for key, split in others.items()
    }


def _not_streamable(name: str, reason: str) -> PipelineError:
    return PipelineError(f"{name} cannot be streamed because {reason}: remove --streaming")


def _download(split: datasets.IterableDataset, identity: str) -> datasets.Dataset:
    """Return all rows of a split, cached in the cache of `datasets`."""

    def download() -> datasets.Dataset:
        with refusals_shown():
            return datasets.Dataset.from_generator(
                _iterate_rows,
                gen_kwargs={"split": split},
                features=split.features,
                fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
            )

    return distributed.main_first(download)


def _iterate_rows(split: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    yield from split


def _is_readable(image: dict[str, Any]) -> bool:
    try:
        open_image(image, name="", min_side=1)
    except BadImageError as error:
        logger.warning("skipping an image of the stream that cannot be read%s", error)
        return False
    return True
