"""The embedded data set: pixels fixed by their seeds, names, splits, cache."""

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from pipeline.data import synthetic
from pipeline.data.synthetic import draw, load_synthetic, species_name
from pipeline.errors import PipelineError


def digest(species: int, index: int) -> str:
    return hashlib.sha256(draw(species, index, 32).tobytes()).hexdigest()


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path


def test_the_pixels_are_the_same_in_a_fresh_interpreter_and_in_any_order() -> None:
    pairs = [(7, 3), (0, 0), (500, 12)]
    here = [digest(*pair) for pair in pairs]
    code = (
        "import hashlib; from pipeline.data.synthetic import draw\n"
        f"for s, i in {pairs[::-1]}: print(hashlib.sha256(draw(s, i, 32).tobytes()).hexdigest())"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert there.stdout.split()[::-1] == here


def test_drawing_leaves_the_global_generator_alone() -> None:
    np.random.seed(41)  # noqa: NPY002 - the state under test
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(41)  # noqa: NPY002
    draw(1, 1, 16)
    assert np.array_equal(np.random.random(3), expected)  # noqa: NPY002


def test_species_index_and_version_each_change_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {digest(0, 0), digest(0, 1), digest(1, 0), digest(1, 1), digest(3, 0)}
    assert len(seen) == 5
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    assert digest(0, 0) not in seen


@pytest.mark.parametrize("size", [8, 33, 64])
def test_a_picture_has_the_size_asked_for(size: int) -> None:
    picture = draw(2, 0, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


def test_no_picture_is_blank_or_burnt_out() -> None:
    for species in range(0, 240, 2):
        picture = draw(species, species, 32).astype(float)
        assert picture.std() > 8, species
        assert 8 < picture.mean() < 235, species


def test_pictures_of_a_species_vary() -> None:
    small = np.stack([draw(4, index, 16) for index in range(12)]).astype(float)
    apart = [np.abs(a - b).mean() for i, a in enumerate(small) for b in small[:i]]
    assert min(apart) > 8


def test_the_background_does_not_depend_on_the_species() -> None:
    # Were a scene or a brightness of the rim tied to a species, the means of species would lie further apart
    # than those of as many groups of pictures dealt out at random.
    groups, each = 24, 12
    drawn = np.stack([[draw(3 * s, i, 16) for i in range(each)] for s in range(groups)]).astype(float)
    corners = drawn[:, :, :2, [0, 1, -2, -1]].mean(axis=(2, 3, 4))  # upper corners: the least often covered
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(corners.ravel()).reshape(groups, each).mean(1).var() for _ in range(200)]
    assert corners.mean(1).var() < np.quantile(shuffled, 0.995)
    # Nor is the background a function of the image number alone, the same behind every species.
    assert corners.std(axis=0).min() > 0.5 * corners.std()


def test_names_are_unique_binomials_shared_within_a_genus() -> None:
    names = [species_name(species) for species in range(6_000)]
    assert len(set(names)) == len(names)
    assert all(genus.istitle() and epithet.islower() for genus, epithet in map(str.split, names))
    assert len({name.split()[0] for name in names[:3]}) == 1
    assert len({name.split()[0] for name in names}) == 2_000


def test_rows_features_and_order_of_the_splits(cache: Path) -> None:
    splits = load_synthetic(num_species=4, first_species=10, train=2, validation=0, test=3, size=16)
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "test": 12}
    for split in splits.values():
        assert split.features["image"] == datasets.Image(decode=False)
        assert split.features["label"].names == [species_name(species) for species in range(10, 14)]
    assert splits["train"]["label"][:] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert splits["test"].split == "test"
    assert np.array_equal(pixels(splits["train"][3]), draw(11, 1, 16))
    assert np.array_equal(pixels(splits["test"][5]), draw(11, 4, 16))  # numbers go on from those of train
    assert list(cache.rglob("*.arrow"))


@pytest.mark.usefixtures("cache")
def test_no_picture_is_in_two_splits() -> None:
    splits = load_synthetic(num_species=3, train=3, validation=3, test=3, size=16)
    hashes = [pixels(row).tobytes() for split in splits.values() for row in split]
    assert len(set(hashes)) == len(hashes) == 27


def test_a_fresh_process_reuses_the_cache(cache: Path) -> None:
    load_synthetic(num_species=2, train=1, validation=0, test=1, size=16)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    code = (
        "from pipeline.data import synthetic\n"
        "def never(*a): raise SystemExit('drawn again')\n"
        "synthetic._picture = never\n"
        "splits = synthetic.load_synthetic(num_species=2, train=1, validation=0, test=1, size=16)\n"
        "print(len(splits['train']), len(splits['test']))"
    )
    env = {**os.environ, "HF_DATASETS_CACHE": str(cache)}
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert again.stdout.split() == ["2", "2"]
    assert again.stderr == ""  # no progress bar where there is no terminal
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == before


@pytest.mark.usefixtures("cache")
def test_every_argument_and_the_version_are_in_the_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(**changed: int) -> str:
        asked = {"num_species": 1, "first_species": 0, "train": 1, "validation": 0, "test": 1, "size": 8}
        return str(load_synthetic(**(asked | changed))["test"].cache_files[0]["filename"])

    seen = [
        files(),
        files(num_species=2),
        files(first_species=1),
        files(train=2),
        files(test=2),
        files(size=9),
    ]
    monkeypatch.setattr(synthetic, "VERSION", synthetic.VERSION + 1)
    seen.append(files())
    assert len(set(seen)) == len(seen)


def test_numbers_out_of_range_are_refused_together() -> None:
    with pytest.raises(
        PipelineError, match=r"(?s)num_species must be 1 or more, not 0.*train must be 0 or more, not -1"
    ):
        load_synthetic(num_species=0, train=-1)
