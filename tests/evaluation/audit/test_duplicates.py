"""Duplicates in and between splits: found by pixels and hash, confirmed by features."""

import io
import tracemalloc
from collections.abc import Sequence

import datasets
import numpy as np
import PIL.Image

from pipeline.evaluation.audit.duplicates import MAX_BITS, Duplicate, Scan, _candidates, scan
from pipeline.images.depth import FULL_DEPTH
from tests.evaluation.audit.test_fingerprints import picture


def encode(image: PIL.Image.Image, kind: str = "PNG", **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rows_of(*contents: bytes) -> datasets.Dataset:
    features = datasets.Features(image=datasets.Image(decode=False), index=datasets.Value("int64"))
    images = [{"bytes": content, "path": None} for content in contents]
    return datasets.Dataset.from_dict({"image": images, "index": list(range(len(contents)))}, features=features)


def test_exact_and_near_duplicates_name_the_first_image_of_the_first_split() -> None:
    one, two, three, four = (picture(seed) for seed in range(4))
    half = two.resize((48, 36), PIL.Image.Resampling.LANCZOS)
    splits = {
        "train": rows_of(encode(one), encode(two), encode(one, "WEBP", lossless=1)),
        "validation": rows_of(encode(three), encode(half)),
        "test": rows_of(encode(four), encode(one), encode(three)),
    }
    found = scan(splits, FULL_DEPTH)
    assert found.exact == [
        Duplicate(("train", 2), ("train", 0), True, 1.0),
        Duplicate(("test", 1), ("train", 0), True, 1.0),
        Duplicate(("test", 2), ("validation", 0), True, 1.0),
    ]
    assert [each.leaks for each in found.exact] == [False, True, True]
    assert found.candidates == [("train", 1), ("validation", 1)]
    (near,) = found.near(np.array([[1.0, 0.1], [1.0, 0.0]]))
    assert (near.row, near.of, near.exact) == (("validation", 1), ("train", 1), False)
    assert near.similarity == np.float64(1 / np.sqrt(1.01))
    assert found.near(np.array([[1.0, 1.0], [1.0, 0.0]])) == []  # the features differ


def test_images_of_one_color_are_duplicates_only_if_all_pixels_are_equal() -> None:
    colors: Sequence[tuple[int, int, int]] = [(10, 20, 30), (200, 20, 30), (10, 20, 30), (11, 20, 30)]
    found = scan({"train": rows_of(*(encode(PIL.Image.new("RGB", (20, 20), each)) for each in colors))}, FULL_DEPTH)
    assert found.exact == [Duplicate(("train", 2), ("train", 0), True, 1.0)]
    assert found.candidates == []


def test_a_set_of_one_repeated_image_and_an_empty_set() -> None:
    content = encode(picture(5))
    found = scan({"train": rows_of(*[content] * 40), "test": rows_of(content)}, FULL_DEPTH)
    assert len(found.exact) == 40
    assert {each.of for each in found.exact} == {("train", 0)}
    assert found.candidates == []
    empty = scan({"train": rows_of()}, FULL_DEPTH)
    assert (empty.exact, empty.candidates) == ([], [])


def test_different_pictures_are_no_candidates() -> None:
    found = scan({"train": rows_of(*(encode(picture(seed), "JPEG", quality=80) for seed in range(30)))}, FULL_DEPTH)
    assert (found.exact, found.candidates) == ([], [])


def test_comparing_many_images_takes_a_bounded_memory() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(1, 2**63, 30_000, dtype=np.uint64)
    copies = {4: 1, 29_999: 12_345}
    for copy, original in copies.items():
        hashes[copy] = hashes[original] ^ np.uint64(2**MAX_BITS - 1)
    features = rng.normal(size=(len(hashes), 4))
    for copy, original in copies.items():
        features[copy] = features[original]
    tracemalloc.start()
    found = _candidates(hashes)
    near = Scan([], [("train", number) for number in range(len(hashes))], hashes).near(features)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == sorted([*copies, *copies.values()])
    assert [(each.row[1], each.of[1]) for each in near] == [(4, 1), (29_999, 12_345)]
    assert peak < 150e6  # comparing 1,024 of them with all would take 280 MB
