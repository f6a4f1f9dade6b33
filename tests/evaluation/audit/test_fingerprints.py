"""The perceptual hash survives what people do to images, and tells different images apart."""

import io

import numpy as np
import PIL.Image
import pytest

from pipeline.evaluation.audit.duplicates import MAX_BITS
from pipeline.evaluation.audit.fingerprints import FLAT, distances, perceptual_hash, pixel_digest


def picture(seed: int, size: tuple[int, int] = (96, 72)) -> PIL.Image.Image:
    """Return a smooth random picture, like a photograph out of focus."""
    noise = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return PIL.Image.fromarray(noise).resize(size, PIL.Image.Resampling.BICUBIC)


def recompressed(image: PIL.Image.Image, quality: int) -> PIL.Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return PIL.Image.open(stream).convert("RGB")


def distance(one: PIL.Image.Image, other: PIL.Image.Image) -> int:
    hashes = np.array([perceptual_hash(one), perceptual_hash(other)], dtype=np.uint64)
    return int(distances(hashes[:1], hashes[1:])[0, 0])


def test_small_changes_keep_the_hash_and_other_pictures_have_another() -> None:
    pictures = [picture(seed) for seed in range(20)]
    for image in pictures:
        assert distance(image, image.resize((48, 36), PIL.Image.Resampling.LANCZOS)) <= MAX_BITS
        assert distance(image, recompressed(image, 85)) <= MAX_BITS
        assert distance(image, image.point(lambda value: int(0.9 * value))) <= MAX_BITS
    hashes = np.array([perceptual_hash(image) for image in pictures], dtype=np.uint64)
    apart = distances(hashes, hashes)[~np.eye(20, dtype=bool)]
    assert np.min(apart) > MAX_BITS
    assert 28 < apart.mean() < 36  # independent bits differ in half of the cases


def test_the_distance_counts_bits() -> None:
    hashes = np.array([0, 1, 2**63 + 1], dtype=np.uint64)
    assert distances(hashes, hashes).tolist() == [[0, 1, 2], [1, 0, 1], [2, 1, 0]]


@pytest.mark.parametrize("color", [(0, 0, 0), (255, 255, 255), (12, 200, 30)])
def test_an_image_of_one_color_has_no_structure(color: tuple[int, int, int]) -> None:
    assert perceptual_hash(PIL.Image.new("RGB", (40, 30), color)) == FLAT


def test_the_digest_changes_with_one_pixel_and_with_the_shape() -> None:
    image = picture(1)
    assert pixel_digest(image) == pixel_digest(image.copy())
    changed = image.copy()
    changed.putpixel((3, 4), (1, 2, 3))
    flat = [PIL.Image.new("RGB", size) for size in ((4, 6), (6, 4))]
    assert len({pixel_digest(each) for each in (image, changed, *flat)}) == 4
