"""Transforms that run on the fly (rows with images -> pixel tensors), the collate function, and the data loader."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL.Image
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline import watchdog
from pipeline.arguments.images import ImageArguments
from pipeline.errors import PipelineError
from pipeline.images import pixel_files
from pipeline.images.augmentation import Augment, derive_seed
from pipeline.images.decode import open_image
from pipeline.images.depth import GrayscaleDepth
from pipeline.images.processor import ImageProcessor, Normalize, input_size

Batch = dict[str, list[Any]]

_DECODE_MARGIN = 1.1  # Default decode size as a multiple of the shorter input side: it leaves room for the crop.
_SHRINK_RATIO = 1.25  # Smallest ratio of shorter side to decode size at which a resize saves more than it costs.


class EvalTransform:
    """The evaluation transform: upright RGB, then the image processor itself, as in `transformers.pipeline`."""

    def __init__(self, processor: ImageProcessor) -> None:
        self.processor = processor
        self.depth = GrayscaleDepth.of(processor)

    def __call__(self, batch: Batch) -> Batch:
        """Transform the columns `image` and `index`, and `label` if it exists.

        Returns:
            `pixel_values` (3, height, width) fp32 for each image, and `labels` if the batch has `label`.

        Raises:
            BadImageError: If an image cannot be read.
        """
        images = [self._open(row, index) for row, index in zip(batch["image"], batch["index"], strict=True)]
        pixels = self.processor(images=images, return_tensors="pt")["pixel_values"]
        labels = {"labels": batch["label"]} if "label" in batch else {}
        return {"pixel_values": list(pixels.float()), **labels}

    def _open(self, row: dict[str, Any], index: int, *, min_side: int | None = None) -> Image:
        return open_image(row, name=row["path"] or f"row {index}", min_side=min_side, depth=self.depth)


class TrainTransform(EvalTransform):
    """The training transform: an augmentation that is a function of (seed, epoch, index) for every image.

    The pixels do not depend on the number of workers and processes, on a resume, or on the cache. The epoch is in
    shared memory, because persistent workers keep their copy of this object.

    Images are first decoded at a reduced size that is the same in every epoch: a shorter side of `decode_size` pixels,
    or up to 25% more. The default is 1.1 times the input resolution, so most crops of a large photo are enlarged: a
    crop of 8% of the area has 0.3 of the side, and is less sharp than the same crop of the full photo. A larger
    `--decode_size` gives sharper crops; the disk cache grows with its square.

    Input size, resampling filter, rescale factor, mean and standard deviation are those of the processor.

    Attributes:
        epoch: int64 scalar in shared memory; set it before each epoch.
        augment: The augmentation, or None if training images are transformed as in evaluation.
    """

    def __init__(self, processor: ImageProcessor, args: ImageArguments, *, seed: int) -> None:
        super().__init__(processor)
        self.seed = seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        size = input_size(processor)
        self.size = list(size)
        self.augment: Augment | None = None
        if args.augmentation == "none":
            return
        self.decode_size = round(_DECODE_MARGIN * min(size)) if args.decode_size is None else args.decode_size
        normalize = Normalize(processor)
        self.augment = Augment(
            args,
            interpolation=int(processor.resample),
            # The color that normalization turns into 0, so that empty pixels are neutral.
            fill=(normalize.shift / normalize.scale).flatten().round().int().tolist(),
        )

    def __call__(self, batch: Batch) -> Batch:
        """Transform the columns `image`, `label` and `index`.

        Returns:
            `pixel_values` (3, *size) uint8 for each image, and `labels`. Without augmentation: as `EvalTransform`.

        Raises:
            BadImageError: If an image cannot be read.
        """
        if self.augment is None:
            return super().__call__(batch)
        epoch, pixels = int(self.epoch), []
        for row, index in zip(batch["image"], batch["index"], strict=True):
            image = (
                pixel_files.read(row)
                if pixel_files.is_cached(row)
                else pixel_files.as_tensor(self.decode(row, index)).permute(2, 0, 1)
            )
            params = self.augment.sample(derive_seed(self.seed, epoch, index), image.shape[-2:])
            pixels.append(self.augment.apply(image, params, self.size))
        return {"pixel_values": pixels, "labels": batch["label"]}

    @property
    def decode_key(self) -> str:
        """Return a description of `decode`: transforms with equal keys decode to equal pixels."""
        bits = f", {self.depth.bits} bits" if self.depth.bits < 16 else ""  # 16 bits: as caches of older versions
        return f"shorter side {self.decode_size}{bits}"

    def decode(self, row: dict[str, Any], index: int) -> pixel_files.Pixels:
        """Return one decoded image (height, width, 3) uint8: the part of the transform that is the same in every epoch.

        Raises:
            BadImageError: If the image cannot be read.
        """
        return np.asarray(shrink(self._open(row, index, min_side=self.decode_size or None), self.decode_size))


def shrink(image: Image, shorter_side: int) -> Image:
    """Return the image resized to a shorter side in pixels, or itself if it is not much larger or the side is 0."""
    shorter = min(image.size)
    if not shorter_side or shorter <= _SHRINK_RATIO * shorter_side:
        return image
    width, height = (round(side * shorter_side / shorter) for side in image.size)
    return image.resize((width, height), PIL.Image.Resampling.BILINEAR, reducing_gap=2.0)


def collate(rows: Sequence[dict[str, Any]] | dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack transformed rows into a batch.

    Args:
        rows: The rows, or a complete batch of `device.batches`, which is returned.

    Returns:
        `pixel_values` (batch, 3, height, width) fp32 or uint8, and `labels` (batch,) int64 if the rows have labels;
        `rows` (batch,) int64 if the rows have their number.
    """
    if isinstance(rows, dict):
        return rows
    batch = {"pixel_values": torch.stack([row["pixel_values"] for row in rows])}
    for key in ("labels", "rows"):
        if key in rows[0]:
            batch[key] = torch.tensor([row[key] for row in rows], dtype=torch.int64)
    return batch


class ImageLoader(DataLoader[Any]):
    """A data loader that is watched: one whose batches do not arrive ends a `watchdog.must_progress` block."""

    def __init__(self, rows: Any, *, collate_fn: Callable[[Any], Any] = collate, **options: Any) -> None:
        super().__init__(rows, collate_fn=collate_fn, worker_init_fn=watchdog.start_worker, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override] # the type of torch has private parts
        """Yield the batches."""
        batches = super().__iter__()
        while True:
            with watchdog.waiting():
                try:
                    batch = next(batches)
                except StopIteration:
                    return
            yield batch


def check_training_pixels(processor: ImageProcessor, *, name: str) -> None:
    """Reject a processor with a step that the training transform lacks, such as swapping the color channels.

    Raises:
        PipelineError: If the training and the evaluation transform give a uniform image different pixels.
    """
    content = io.BytesIO()
    PIL.Image.new("RGB", (64, 64), (50, 100, 200)).save(content, "PNG")
    rows: Batch = {"image": [{"bytes": content.getvalue(), "path": None}], "label": [0], "index": [0]}
    training, evaluation = (
        transform(rows)["pixel_values"][0]
        for transform in (TrainTransform(processor, ImageArguments(), seed=0), EvalTransform(processor))
    )
    training = Normalize(processor)(training)
    if training.shape != evaluation.shape or not torch.allclose(training, evaluation, atol=1e-2):
        raise PipelineError(
            f"the image processor of {name} does more than resize, crop, rescale and normalize, so colors would differ "
            "between training and evaluation: choose another model"
        )
