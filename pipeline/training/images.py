"""Splits -> the images of a training, transformed and cached as the settings say, and their labels."""

import dataclasses
from typing import Any

import datasets

from pipeline.arguments.settings import Settings
from pipeline.data.labels.read import read_integers
from pipeline.data.streaming import Stream, StreamShard
from pipeline.images.processor import ImageProcessor
from pipeline.images.train_images import PreparedImages, prepare_images, prepare_validation
from pipeline.images.transforms import TrainTransform


def load_images(splits: datasets.DatasetDict, processor: ImageProcessor, settings: Settings) -> PreparedImages:
    """Return the images of a training. Every process of a job must call it.

    Args:
        splits: `train` and `validation`, with columns `image`, `label` and `index`. `train` may be a stream.
        processor: The image processor of the network.
        settings: Augmentation, cache, random seed and device.

    Raises:
        BadImageError: If an image cannot be read.
        PipelineError: If `--image_cache device` needs too much memory.
    """
    args, train, validation = settings.trainer, splits["train"], splits["validation"]
    transform = TrainTransform(processor, settings.images, seed=args.seed)
    if isinstance(train, Stream):
        stream: Any = train
        shard = StreamShard(stream, transform, batch_size=args.train_batch_size, seed=args.seed, epoch=transform.epoch)
        scored = prepare_validation(
            validation, transform, settings.images, device=args.device, epochs=args.num_train_epochs
        )
        return PreparedImages(shard, scored, "none")
    images = prepare_images(
        train, validation, transform, settings.images, device=args.device, epochs=args.num_train_epochs
    )
    return dataclasses.replace(images, labels=read_integers(train))
