"""Images without labels (files, folders, glob patterns, PIL images, arrays) -> rows for inference; and their table."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from torch.utils.data import Dataset

from pipeline.config.names import as_path, matching_files, missing_images
from pipeline.errors import BadImageError, PipelineError
from pipeline.images.decode import IMAGE_EXTENSIONS, open_image
from pipeline.images.depth import GrayscaleDepth
from pipeline.images.files import list_files
from pipeline.images.pixels import to_rgb
from pipeline.models.verdicts import Verdicts

Source = str | Path | PIL.Image.Image | np.ndarray[Any, Any]

COLUMNS = {"image": "string", "rank": "int64", "label": "string", "probability": "double"}
"""Of every table of predictions, with their types (see `growing_table`). `verdicts.verdict_columns` follow."""
_ONE = (str, Path, PIL.Image.Image, np.ndarray)


class Ranked(NamedTuple):
    """The most likely classes of a batch of images.

    Attributes:
        names: Name of each image.
        problems: Why each image cannot be read, as `name: reason`; None for the readable ones.
        probabilities: (batch, k), from high to low.
        classes: (batch, k) int64.
        verdicts: What the model says of its confidence.
    """

    names: list[str | int]
    problems: list[str | None]
    probabilities: torch.Tensor
    classes: torch.Tensor
    verdicts: Verdicts = Verdicts()


def find_images(images: Source | Iterable[Source]) -> list[tuple[str | int, Source]]:
    """Return each image with its name: its path, or its position for an image in memory.

    Raises:
        PipelineError: If a file, folder or glob pattern matches no image, or a file name is not valid UTF-8.
    """
    sources = [images] if isinstance(images, _ONE) else list(images)
    named: list[tuple[str | int, Source]] = []
    for place, source in enumerate(sources):
        if isinstance(source, str | Path):
            named += [(str(path), path) for path in _find_files(source)]
        else:
            named.append((place, source))
    return named


def _find_files(name: str | Path) -> list[Path]:
    """Return the image files that a file, a folder (with all below it) or a glob pattern names, sorted."""
    path = as_path(name)
    if path.is_dir():
        found = [file for file in list_files(path) if file.suffix.lower() in IMAGE_EXTENSIONS]
    else:
        found = matching_files(name)
    if not found:
        raise PipelineError(missing_images(name))
    for file in found:
        try:
            str(file).encode()
        except UnicodeEncodeError as error:  # no table could hold the name
            raise PipelineError(f"the file name {str(file)!r} is not valid UTF-8: rename the file") from error
    return sorted(found)


class ImageRows(Dataset[dict[str, Any]]):
    """Images prepared by an image processor; one that cannot be read is a black image with its problem."""

    def __init__(self, named: Sequence[tuple[str | int, Source]], processor: Any, *, fail: bool) -> None:
        self.named, self.processor, self.fail = named, processor, fail
        self.depth = GrayscaleDepth.of(processor)

    def __len__(self) -> int:
        return len(self.named)

    def __getitems__(self, places: list[int]) -> list[dict[str, Any]]:
        """Return the rows of a batch, prepared in one call of the image processor."""
        named = [self.named[place] for place in places]
        images, problems = zip(*(self._open(name, source) for name, source in named), strict=True)
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"]
        return [
            {"pixel_values": image, "name": name, "problem": problem}
            for image, (name, _), problem in zip(pixels.float(), named, problems, strict=True)
        ]

    def _open(self, name: str | int, source: Source) -> tuple[PIL.Image.Image, str | None]:
        try:
            return self._as_rgb(source, name=str(name)), None
        except BadImageError as error:
            if self.fail:
                raise BadImageError(f"{error}\nfix or remove the image, or pass --bad_images skip") from error
            return PIL.Image.new("RGB", (64, 64)), str(error)

    def _as_rgb(self, source: Source, *, name: str) -> PIL.Image.Image:
        if isinstance(source, str | Path):
            return open_image(source, name=name, depth=self.depth)
        try:
            image = PIL.Image.fromarray(source) if isinstance(source, np.ndarray) else source.copy()
            return to_rgb(image, self.depth)
        except (TypeError, ValueError, OSError) as error:
            raise BadImageError(f"image {name}: {error}") from error


def collate_rows(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stack rows into `pixel_values` (batch, 3, height, width), and list their `names` and `problems`."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "names": [row["name"] for row in rows],
        "problems": [row["problem"] for row in rows],
    }


def rounded_rows(batch: Ranked, class_names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return `ranked_rows` with numbers of six decimal places, as files have them."""
    return [
        tuple(round(value, 6) if isinstance(value, float) else value for value in row)
        for row in ranked_rows(batch, class_names)
    ]


def ranked_rows(batch: Ranked, class_names: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return one row for each image and rank, without the images that cannot be read.

    Args:
        batch: The images.
        class_names: Names of the classes, in the order of the logits.

    Returns:
        The values of `COLUMNS` (name of the image, rank from 1, label and probability), then of `verdict_columns`.
    """
    return [
        (name, rank + 1, class_names[number], probability, *batch.verdicts.values(image, rank, class_names))
        for image, (name, problem, *ranked) in enumerate(
            zip(batch.names, batch.problems, batch.classes.tolist(), batch.probabilities.tolist(), strict=True)
        )
        if problem is None
        for rank, (number, probability) in enumerate(zip(*ranked, strict=True))
    ]
