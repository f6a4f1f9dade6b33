"""The embedded data set: names, splits, cache."""

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

from pipeline.errors import PipelineError
from pipeline.synthetic import dataset
from pipeline.synthetic.dataset import VERSION, load_synthetic, species_name
from pipeline.synthetic.scene import draw


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path


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
    assert np.array_equal(pixels(splits["train"][3]), draw(11, 1, size=16, version=VERSION))
    assert np.array_equal(
        pixels(splits["test"][5]), draw(11, 4, size=16, version=VERSION)
    )  # numbers go on from those of train
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
        "from pipeline.synthetic import dataset as synthetic\n"
        "def never(*_, **__): raise SystemExit('drawn again')\n"
        "synthetic.draw = never\n"
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
    monkeypatch.setattr(dataset, "VERSION", VERSION + 1)
    seen.append(files())
    assert len(set(seen)) == len(seen)


def test_numbers_out_of_range_are_refused_together() -> None:
    with pytest.raises(
        PipelineError, match=r"(?s)num_species must be 1 or more, not 0.*train must be 0 or more, not -1"
    ):
        load_synthetic(num_species=0, train=-1)
