"""Parquet files that unpack to many times their size are refused by name: local, from the Hub, and streamed."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.tables.parquet import read_parquet_files
from pipeline.errors import PipelineError
from tests.fakes.hub import FakeHub

MB = 2**20
BOMBS = {"one-row": ([bytes(400 * MB)], False), "one-value": ([bytes(4 * MB)] * 250, True)}  # images, dictionary
CARD = """---
dataset_info:
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
          '0': dark
          '1': light
  splits:
  - name: train
    num_bytes: 1
    num_examples: 250
  - name: validation
    num_bytes: 1
    num_examples: 100
---
"""
# Prints, for each dataset, the error and the growth of the peak of memory.
CLIENT = """
import json, sys
from pipeline.arguments.data import DataArguments
from pipeline.data.sources import load_splits
from pipeline.errors import PipelineError
from tests.hub.test_parquet import growth

def error_of(name, streaming):
    try:
        load_splits(DataArguments(dataset_name=name, streaming=streaming))
    except PipelineError as error:
        return str(error)

found = {}
for name in sys.argv[1:]:
    for streaming in (False, True):
        errors = []
        size = growth(lambda: errors.append(error_of("tester/" + name, streaming)))
        found[f"{name} {streaming}"] = [*errors, size]
print(json.dumps(found))
"""


def growth(call: Callable[[], object]) -> int:
    """Return by how many bytes a call raises the peak of the memory of this process."""
    pa.default_memory_pool().release_unused()  # or what was freed before would hide the growth
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at the present size
    before = peak()
    call()
    return peak() - before


def peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def write(file: Path, images: list[bytes], *, dictionary: bool) -> int:
    labels = [i % 2 for i in range(len(images))]
    table = pa.table({"image": [{"bytes": image, "path": None} for image in images], "label": labels})
    pq.write_table(table, file, compression="zstd", use_dictionary=dictionary, dictionary_pagesize_limit=16 * MB)
    return file.stat().st_size


@pytest.mark.parametrize(("images", "dictionary"), BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_rejected_by_name_and_takes_no_memory(images: list[bytes], dictionary: bool, tmp_path: Path) -> None:
    packed = write(tmp_path / "train.parquet", images, dictionary=dictionary)
    assert packed < MB / 10

    def refused() -> None:
        with pytest.raises(PipelineError, match=r"train\.parquet has [\d,]+ bytes and unpacks to more than 64 MB: st"):
            read_parquet_files(tmp_path, image_column=None, label_column=None)

    assert growth(refused) < 250 * MB


def test_bombs_on_the_hub_are_rejected_too_also_if_they_are_streamed(tmp_path: Path) -> None:
    with FakeHub() as hub:
        for name, (images, dictionary) in BOMBS.items():
            write(tmp_path / "bomb.parquet", images, dictionary=dictionary)
            for split in ("train", "validation"):
                file = f"data/{split}-00000-of-00001.parquet"
                hub.put("dataset", f"tester/{name}", file, (tmp_path / "bomb.parquet").read_bytes())
            hub.put("dataset", f"tester/{name}", "README.md", CARD.encode())
        environment = os.environ | hub.env(tmp_path / "hf") | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CLIENT, *BOMBS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) == 4
    for name, (error, size) in found.items():
        assert re.search(r"data/(train|validation)-00000-of-00001\.parquet has ", error), name
        assert "unpacks to more than 64 MB: " in error, name
        assert size < 350 * MB, (name, size)


def test_a_small_file_may_repeat_an_image(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [bytes(2000)] * 3000, dictionary=True)
    splits = read_parquet_files(tmp_path, image_column="image", label_column=None)
    assert len(splits["train"]) == 3000
    assert splits["train"][2999]["label"] == 1
