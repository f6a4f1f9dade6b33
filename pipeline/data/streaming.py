"""A Hub data set that is trained on while it is fetched: its train split, image by image, never whole on the disk.

Owns the order of the images, and how processes and workers share them. Validation and test are fetched before, because
they are scored whole.
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
from pipeline.arguments.images import AugmentationArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.strategy import AdaptationArguments
from pipeline.data.columns import find_columns
from pipeline.data.splits import name_splits
from pipeline.errors import BadImageError, PipelineError
from pipeline.images.augmentation import derive_seed
from pipeline.images.decode import open_image
from pipeline.images.transforms import Batch, collate

logger = logging.getLogger(__name__)

Transform = Callable[[Batch], Batch]

_BUFFER = 1000  # images, still encoded, from which a process draws the next one


class Stream:
    """The train split: its rows as they come, and what is known of it before the first one.

    Attributes:
        rows: With `image` (undecoded bytes) and `label`.
        features: `label` is a `ClassLabel`.
        identity: Changes with the data on the Hub.
        skips_bad: Leave out what cannot be read, in place of an error.
    """

    def __init__(self, rows: datasets.IterableDataset, *, images: int, identity: str, skips_bad: bool) -> None:
        self.rows, self.features, self.identity, self.skips_bad = rows, rows.features, identity, skips_bad
        self._images = images

    def __len__(self) -> int:
        """Images in an epoch, as the card of the data set says."""
        return self._images


class Share(IterableDataset[dict[str, Any]]):
    """What one process gets of a stream in an epoch: as many whole batches as every other one.

    The row groups of parquet files (the files, of other kinds) come in a drawn order, dealt out to processes and
    workers, and each worker draws from a buffer of their images. All is a function of (seed, epoch), so that a resumed
    epoch goes on where it stopped; it reads again what it had before. Who has too few images for its batches begins
    another pass. What is drawn for an image depends on its bytes, so not on the order.
    """

    def __init__(self, stream: Stream, transform: Transform, *, batch_size: int, seed: int, epoch: Tensor) -> None:
        """Take the stream, what becomes of its rows, and the epoch, which lies in shared memory."""
        self.stream, self.transform, self.batch_size = stream, transform, batch_size
        self.seed, self.epoch = seed, epoch
        self.batches = -(-len(stream) // (batch_size * distributed.world_size()))

    def __len__(self) -> int:
        """Images of this process."""
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield transformed rows, in a worker those of its batches."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        passes = itertools.chain.from_iterable(self._pass(turn) for turn in itertools.count())
        return itertools.islice(passes, len(range(number, self.batches, workers)) * self.batch_size)

    def loader(self, *, num_workers: int, prefetch_factor: int | None, pin_memory: bool) -> DataLoader[Any]:
        """Batches of this process; no more workers than there are parts to read."""
        workers = min(num_workers, self._mine(0).num_shards)
        return DataLoader(
            self,
            self.batch_size,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=prefetch_factor if workers else None,
            pin_memory=pin_memory,
        )

    def _mine(self, turn: int) -> datasets.IterableDataset:
        seed = derive_seed(self.seed, int(self.epoch), turn)
        # Parts after one another: `datasets` reads several at once in threads, and sleeps 5 s at the end of them.
        rows = self.stream.rows.shuffle(seed=seed, buffer_size=_BUFFER, max_buffer_input_shards=1)
        return split_dataset_by_node(rows, distributed.rank(), distributed.world_size())

    def _pass(self, turn: int) -> Iterator[dict[str, Any]]:
        seen = 0
        for row in self._mine(turn):
            index = int.from_bytes(hashlib.blake2b(row["image"]["bytes"] or b"", digest_size=8).digest()) >> 1
            if row["label"] is None or row["label"] < 0 or (self.stream.skips_bad and not _readable(row["image"])):
                continue
            seen += 1
            batch = self.transform({"image": [row["image"]], "label": [row["label"]], "index": [index]})
            yield {key: values[0] for key, values in batch.items()}
        if not seen:
            raise PipelineError("a stream gave no image at all: leave out --streaming")


def open_stream(args: DataArguments) -> tuple[Stream, dict[str, datasets.Dataset]]:
    """Begin to read a Hub data set.

    Returns:
        Its train split, and the others, fetched, with the columns that they have.

    Raises:
        PipelineError: If it cannot be streamed; all reasons at once that are known without its images.
    """
    name = str(args.dataset_name)
    found = hub.stream_hub_dataset(name, args.dataset_config_name, args.dataset_revision)
    splits = name_splits(found.splits)
    features = next(iter(splits.values())).features
    if features is None:
        raise _not_streamable(name, "its card does not say which columns it has")
    columns = find_columns(features, image=args.image_column_name, label=args.label_column_name)
    if not isinstance(features[columns.label], datasets.ClassLabel):
        raise _not_streamable(name, f"the names of its classes are known only when all of {columns.label} is read")
    for wanted in ("train", "validation"):
        if wanted not in splits:
            raise _not_streamable(name, f"it has no {wanted} split")
    images = found.sizes.get(next(key for key, rows in found.splits.items() if rows is splits["train"]))
    if not images:
        raise _not_streamable(name, "its card does not say how many train images it has")
    rows = splits["train"].reshard().select_columns([columns.image, columns.label])
    for old, new in ((columns.image, "image"), (columns.label, "label")):
        rows = rows if old == new else rows.rename_column(old, new)
    rows = rows.cast_column("image", datasets.Image(decode=False))
    if next(iter(rows))["image"]["bytes"] is None:
        raise _not_streamable(name, "its images are files of their own")
    logger.info("%s is streamed: %d train images, in %d parts", name, images, rows.num_shards)
    stream = Stream(rows, images=images, identity=found.identity, skips_bad=args.bad_images == "skip")
    others = {key: split for key, split in splits.items() if key != "train"}
    return stream, {
        key: _fetch(split.cast_column(columns.image, datasets.Image(decode=False)), f"{found.identity} {key}")
        for key, split in others.items()
    }


def find_problems(
    data: DataArguments, model: ModelArguments, augmentation: AugmentationArguments, adaptation: AdaptationArguments
) -> Iterator[str]:
    """Yield what was asked for that needs all images before the first step."""
    if adaptation.strategy == "head":
        yield "--strategy head"
    if model.head_init == "probe":
        yield "--head_init probe"
    if adaptation.baseline:
        yield "--baseline"
    if adaptation.refit_head:
        yield "--refit_head"
    if adaptation.recipe == "auto":
        yield "--recipe auto"
    if augmentation.class_weights == "balanced":
        yield "--class_weights balanced"
    if augmentation.balanced_sampling:
        yield "--balanced_sampling"
    if data.max_train_samples is not None:
        yield "--max_train_samples"


def _not_streamable(name: str, reason: str) -> PipelineError:
    return PipelineError(f"{name} cannot be streamed: {reason}. Leave out --streaming.")


def _fetch(split: datasets.IterableDataset, identity: str) -> datasets.Dataset:
    """All rows, kept in the cache of `datasets`."""
    return distributed.main_first(
        lambda: datasets.Dataset.from_generator(
            _rows,
            gen_kwargs={"split": split},
            features=split.features,
            fingerprint=hashlib.sha256(identity.encode()).hexdigest()[:16],
        )
    )


def _rows(split: datasets.IterableDataset) -> Iterator[dict[str, Any]]:
    yield from split


def _readable(image: dict[str, Any]) -> bool:
    try:
        open_image(image, name="", at_least=1)
    except BadImageError as error:
        logger.warning("an image of the stream cannot be read and is left out%s", error)
        return False
    return True
