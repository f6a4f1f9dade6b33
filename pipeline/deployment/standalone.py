"""Classify images with an exported model. It needs onnxruntime, numpy and Pillow, and nothing of vit-pipeline.

    python predict.py model-int8.onnx IMAGE ... [--top_k 5]

It prints CSV: image, rank, label, probability (calibrated if the model stores a temperature), and `unknown` if the
model can say whether an image is unlike its training images. `export` copies this file next to the models as
`predict.py`, and imports it to compare the exported models with the network they were made from.
"""

import argparse
import csv
import functools
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
from numpy.typing import NDArray

FORMAT = 1
"""Version of the metadata and of the inputs and outputs of the graph."""
KEY = "vit-pipeline"
"""Of the metadata in the ONNX file."""

_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "HEIF")
_MAX_ASPECT_RATIO = 5000
_UPRIGHT: dict[Any, PIL.Image.Transpose] = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


class ExportedClassifier:
    """An exported model with its preprocessing, class names and thresholds.

    Attributes:
        session: The session of ONNX Runtime. Input `pixels` (batch, height, width, 3) uint8; outputs `logits` (batch,
            classes) and, if the model can find unknown images, `unknown_score` (batch,).
        settings: The metadata of the file.
        class_names: Names of the classes, in the order of the logits.
    """

    def __init__(self, path: str | Path, *, threads: int = 0) -> None:
        """Load a file.

        Args:
            path: The ONNX file.
            threads: Threads of ONNX Runtime. 0: as many as the machine has cores.

        Raises:
            ValueError: If the file was not written by `export`, or was written by a version with another format.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        if text is None:
            raise ValueError(f"{path} was not written by `vit-pipeline export`: use a file that it wrote")
        self.settings: dict[str, Any] = json.loads(text)
        if self.settings["format"] != FORMAT:
            raise ValueError(
                f"{path} has format {self.settings['format']}, but this program reads format {FORMAT}: use the "
                "predict.py of the folder that the file was exported to, or export it again"
            )
        self.class_names: list[str] = self.settings["class_names"]

    def predict(self, images: Sequence[Any]) -> list[dict[str, Any]]:
        """Return probabilities, and whether it is confident and the image is known, for each image.

        Args:
            images: Paths, bytes of image files, or PIL images.

        Returns:
            For each image `probabilities` (classes,), `prediction_set` (numbers of its classes, most likely first),
            `abstain` (whether the confidence is too low to answer) and `unknown` (whether it is unlike the training
            images). The last three are None without a threshold.

        Raises:
            ValueError, OSError: If an image cannot be read.
        """
        outputs = self.run(np.stack([preprocess(image, self.settings) for image in images]))
        limits = [self.settings[f"{name}_threshold"] for name in ("abstain", "unknown")]
        largest = self.settings.get("aps_threshold")  # files of an earlier version have none
        results = []
        for number, row in enumerate(softmax(outputs["logits"] / (self.settings["temperature"] or 1.0))):
            abstain = None if limits[0] is None else bool(row.max() < limits[0])
            unknown = None if limits[1] is None else bool(outputs["unknown_score"][number] > limits[1])
            members = None if largest is None else aps_set(row, largest)
            results.append({"probabilities": row, "prediction_set": members, "abstain": abstain, "unknown": unknown})
        return results

    def run(self, pixels: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """Return the outputs of the graph by name for preprocessed images (batch, height, width, 3)."""
        names = [output.name for output in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {"pixels": pixels}), strict=True))


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the probabilities (images, classes) of logits."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def aps_set(probabilities: NDArray[np.float64], threshold: float) -> list[int]:
    """Return the classes of the APS set of an image: those before which the total probability is at most a threshold.

    Args:
        probabilities: Calibrated, shape (classes,).
        threshold: The largest total probability of the more likely classes.
    """
    order = np.argsort(-probabilities, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(probabilities[order])[:-1]])
    return [int(number) for number in order[before <= threshold]]


def preprocess(image: Any, settings: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the pixels (height, width, 3) that the graph receives. It normalizes them itself.

    Args:
        image: A path, the bytes of an image file, or a PIL image.
        settings: `library` (whose pixels a resize returns: `torch` or `pillow`), `resize` ([height, width], [shorter
            side], or None), `filter`, `crop` ([height, width] or None) and `grayscale_bits`.

    Raises:
        ValueError, OSError: If the image cannot be read.
    """
    opened = image if isinstance(image, PIL.Image.Image) else _open(image)
    rgb = to_rgb(opened, settings["grayscale_bits"] or 16)
    pixels = np.asarray(rgb)
    if settings["resize"] is not None:
        height, width = _target(rgb, settings["resize"])
        if settings["library"] == "torch":
            pixels = resize(pixels, height, width, settings["filter"])
        else:
            pixels = np.asarray(rgb.resize((width, height), PIL.Image.Resampling[settings["filter"].upper()]))
    if settings["crop"] is None:
        return pixels
    return _crop(pixels, settings["crop"], int if settings["library"] == "torch" else round)


def _target(image: PIL.Image.Image, size: Sequence[int]) -> tuple[int, int]:
    """Return the height and width to resize to. One number is the shorter side, and the aspect ratio is kept."""
    if len(size) == 2:
        return size[0], size[1]
    scaled = int(size[0] * max(image.size) / min(image.size))
    return (size[0], scaled) if image.height <= image.width else (scaled, size[0])


def to_rgb(image: PIL.Image.Image, bits: int = 16) -> PIL.Image.Image:
    """Return the image upright and in RGB: transparency on white, grayscale with more than 8 bits rescaled.

    Args:
        image: Any image of Pillow.
        bits: How many bits the values of 16-bit grayscale images use.

    Raises:
        ValueError: If the scale of grayscale values is unknown.
    """
    image.load()
    try:
        operation = _UPRIGHT.get(image.getexif().get(PIL.ExifTags.Base.Orientation))
    except Exception:  # noqa: BLE001 (corrupt metadata raise anything; the pixels are complete)
        operation = None
    upright = image if operation is None else image.transpose(operation)
    if upright.mode == "F" or upright.mode.startswith("I"):
        upright = _to_8_bits(np.asarray(upright), bits)
    elif upright.has_transparency_data:
        rgba = upright.convert("RGBA")
        upright = PIL.Image.alpha_composite(PIL.Image.new("RGBA", rgba.size, "white"), rgba)
    return upright.convert("RGB")


def resize(pixels: NDArray[np.uint8], height: int, width: int, method: str) -> NDArray[np.uint8]:
    """Return the pixels that torch's uint8 kernels return, which `vit-pipeline` scores with. Pillow's can differ.

    Args:
        pixels: Shape (height, width, 3).
        height: Of the result.
        width: Of the result.
        method: `bilinear` or `bicubic`, with antialiasing.
    """
    columns = _resize_rows(pixels.transpose(1, 0, 2), width, method)  # torch resizes horizontally first
    return _resize_rows(columns.transpose(1, 0, 2), height, method)


def _resize_rows(pixels: NDArray[np.uint8], length: int, method: str) -> NDArray[np.uint8]:
    """Resize the first side. Each result is a sum with 16-bit integer weights, rounded to uint8."""
    if len(pixels) == length:
        return pixels
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1)
    result = np.empty((length, rows.shape[1]), dtype=np.uint8)
    starts, weights, bits = _weights(len(pixels), length, method)
    for number, (start, row) in enumerate(zip(starts, weights, strict=True)):
        sums = row @ rows[start : start + len(row)].astype(np.float64)  # exact: integers below 2**53
        result[number] = np.clip(np.floor(sums * 2.0**-bits + 0.5), 0, 255)
    return result.reshape(length, *pixels.shape[1:])


@functools.lru_cache(maxsize=64)
def _weights(source: int, length: int, method: str) -> tuple[list[int], list[NDArray[np.float64]], int]:
    """Return the first source pixel of each result, its integer weights, and the bits of their fraction."""
    scale = source / length
    stretch = max(scale, 1.0)  # antialiasing: the filter covers all source pixels of a result
    reach = stretch * (1 if method == "bilinear" else 2)
    starts, weights = [], []
    for number in range(length):
        center = (number + 0.5) * scale
        start, end = max(int(center - reach + 0.5), 0), min(int(center + reach + 0.5), source)
        row = _kernel(np.abs(np.arange(start, end) - center + 0.5) / stretch, method)
        starts.append(start)
        weights.append(row / row.sum())
    bits = min(math.ceil(math.log2((2**15 - 0.5) / max(row.max() for row in weights))) - 1, 22)
    scaled = [row * 2.0**bits for row in weights]
    return starts, [np.sign(row) * np.floor(np.abs(row) + 0.5) for row in scaled], bits


def _kernel(distance: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    if method == "bilinear":
        return np.asarray(np.maximum(1 - distance, 0))
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def _crop(pixels: NDArray[np.uint8], size: Sequence[int], to_int: Callable[[float], int]) -> NDArray[np.uint8]:
    """Return the center. Smaller images are padded with black, as by image processors of transformers."""
    missing = [max(wanted - side, 0) for wanted, side in zip(size, pixels.shape[:2], strict=True)]
    pixels = np.pad(pixels, [*((each // 2, (each + 1) // 2) for each in missing), (0, 0)])
    top, left = (to_int((side - wanted) / 2) for wanted, side in zip(size, pixels.shape[:2], strict=True))
    return pixels[top : top + size[0], left : left + size[1]]


def _open(source: Any) -> PIL.Image.Image:
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        image = PIL.Image.open(io.BytesIO(data), formats=_supported_formats())
    except PIL.UnidentifiedImageError as error:  # its text names an object in memory
        raise ValueError("not an image, or in an unsupported format") from error
    if image.format == "PNG":  # only verify() finds a wrong checksum, and the image cannot be used afterwards
        image.verify()
        image = PIL.Image.open(io.BytesIO(data), formats=("PNG",))
    if max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
        raise ValueError(f"the aspect ratio of {image.width} x {image.height} pixels exceeds {_MAX_ASPECT_RATIO}:1")
    return image


@functools.cache
def _supported_formats() -> tuple[str, ...]:
    PIL.Image.init()
    try:
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    except ImportError:
        pass
    return tuple(name for name in _FORMATS if name in PIL.Image.OPEN)


def _to_8_bits(pixels: NDArray[Any], bits: int) -> PIL.Image.Image:
    low, high = pixels.min(), pixels.max()
    is_float = pixels.dtype.kind == "f"
    if not (low >= 0 and high <= (0xFF if is_float else 0xFFFF)):  # this form also rejects NaN
        raise ValueError(f"unknown scale of grayscale values from {low:g} to {high:g}: save the image with 8 bits")
    if is_float:
        return PIL.Image.fromarray(np.rint(pixels * (0xFF if high <= 1 else 1)).astype(np.uint8))
    return PIL.Image.fromarray((pixels.clip(max=2**bits - 1) >> (bits - 8)).astype(np.uint8))


def _rows(model: ExportedClassifier, names: Iterable[str], top_k: int, problems: list[str]) -> Iterator[list[Any]]:
    for name in names:
        try:
            (result,) = model.predict([name])
        except Exception as error:  # noqa: BLE001 (Pillow's decoders raise anything on corrupt bytes)
            problems.append(f"{name}: {error}")
            continue
        unknown = [] if result["unknown"] is None else [result["unknown"]]
        best = np.argsort(-result["probabilities"], kind="stable")[:top_k]
        for rank, number in enumerate(best, start=1):
            yield [name, rank, model.class_names[number], f"{result['probabilities'][number]:.6f}", *unknown]


def main() -> int:
    """Print the table of a command line, and return the exit code: 2 if a file cannot be read."""
    parser = argparse.ArgumentParser(description="Classify images with an exported model.")
    parser.add_argument("model", help="ONNX file that `vit-pipeline export` wrote")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--top_k", type=int, default=5, help="number of labels per image")
    args = parser.parse_args()
    problems: list[str] = []
    try:
        model = ExportedClassifier(args.model)
    except Exception as error:  # noqa: BLE001 (ONNX Runtime raises its own errors for a file that it cannot read)
        sys.stderr.write(f"error: {error}\n")
        return 2
    table = csv.writer(sys.stdout, lineterminator="\n")
    unknown = [] if model.settings["unknown_threshold"] is None else ["unknown"]
    table.writerow(["image", "rank", "label", "probability", *unknown])
    table.writerows(_rows(model, args.images, args.top_k, problems))
    sys.stderr.writelines(f"error: {problem}\n" for problem in problems)
    return 2 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
