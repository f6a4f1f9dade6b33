"""The embedded dataset: names, splits and cache."""

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
from pipeline.synthetic.scene import render


def pixels(row: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    return tmp_path


def test_names_are_unique_and_share_the_genus() -> None:
    names = [species_name(species) for species in range(6_000)]
    assert len(set(names)) == len(names)
    assert all(genus.istitle() and epithet.islower() for genus, epithet in map(str.split, names))
    assert len({name.split()[0] for name in names[:3]}) == 1
    assert len({name.split()[0] for name in names}) == 2_000


def test_splits_have_the_expected_rows_features_and_order(cache: Path) -> None:
    splits = load_synthetic(num_species=4, first_species=10, train=2, validation=0, test=3, size=16)
    assert {name: len(split) for name, split in splits.items()} == {"train": 8, "test": 12}
    for split in splits.values():
        assert split.features["image"] == datasets.Image(decode=False)
        assert split.features["label"].names == [species_name(species) for species in range(10, 14)]
    assert splits["train"]["label"][:] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert splits["test"].split == "test"
    assert np.array_equal(pixels(splits["train"][3]), render(11, 1, size=16, version=VERSION, dusk=True))
    # The image numbers of test follow those of train.
    assert np.array_equal(pixels(splits["test"][5]), render(11, 4, size=16, version=VERSION, dusk=True))
    assert list(cache.rglob("*.arrow"))


@pytest.mark.usefixtures("cache")
def test_no_image_is_in_two_splits() -> None:
    splits = load_synthetic(num_species=3, train=3, validation=3, test=3, size=16)
    hashes = [pixels(row).tobytes() for split in splits.values() for row in split]
    assert len(set(hashes)) == len(hashes) == 27


def test_another_process_uses_the_cache(cache: Path) -> None:
    load_synthetic(num_species=2, train=1, validation=0, test=1, size=16)
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")}
    code = (
        "from pipeline.synthetic import dataset as synthetic\n"
        "def fail(*_, **__): raise SystemExit('rendered again')\n"
        "synthetic.render = fail\n"
        "splits = synthetic.load_synthetic(num_species=2, train=1, validation=0, test=1, size=16)\n"
        "print(len(splits['train']), len(splits['test']))"
    )
    env = {**os.environ, "HF_DATASETS_CACHE": str(cache)}
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert process.stdout.split() == ["2", "2"]
    assert process.stderr == ""  # Without a terminal, there is no progress bar.
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.arrow")} == before


@pytest.mark.usefixtures("cache")
def test_the_cache_key_has_every_argument_and_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def cache_file(**changes: int) -> str:
        arguments: dict[str, Any] = {
            "num_species": 1,
            "first_species": 0,
            "train": 1,
            "validation": 0,
            "test": 1,
            "size": 8,
        }
        return str(load_synthetic(**(arguments | changes))["test"].cache_files[0]["filename"])

    files = [
        cache_file(),
        cache_file(num_species=2),
        cache_file(first_species=1),
        cache_file(train=2),
        cache_file(test=2),
        cache_file(size=9),
        cache_file(dusk=False),
    ]
    monkeypatch.setattr(dataset, "VERSION", VERSION + 1)
    files.append(cache_file())
    assert len(set(files)) == len(files)


def test_all_numbers_that_are_too_small_are_reported() -> None:
    with pytest.raises(PipelineError) as caught:
        load_synthetic(num_species=0, train=-1)
    assert str(caught.value) == (
        "synthetic-flowers: num_species 0 is too small: use 1 or more\n"
        "synthetic-flowers: train -1 is too small: use 0 or more"
    )
