"""Parquet files that unpack to many times their size are rejected before they are unpacked."""

import resource
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.tables.parquet import read_parquet_files
from pipeline.errors import PipelineError


def write(file: Path, images: list[bytes], *, dictionary: bool) -> int:
    table = pa.table({"image": [{"bytes": image, "path": None} for image in images], "label": [0] * len(images)})
    pq.write_table(table, file, compression="zstd", use_dictionary=dictionary)
    return file.stat().st_size


@pytest.mark.parametrize("dictionary", [False, True], ids=["zeros", "one value in many rows"])
def test_a_bomb_is_rejected_by_name_and_takes_no_memory(
    dictionary: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.tables.parquet._MIN_SIZE", 2**25)
    packed = write(tmp_path / "train.parquet", [bytes(2**19)] * 128, dictionary=dictionary)
    assert packed < 2**19
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PipelineError, match=r"train\.parquet has [\d,]+ bytes and unpacks to more than \d+ MB: write"):
        read_parquet_files(tmp_path, image_column=None, label_column=None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KB


def test_a_small_file_may_repeat_an_image(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [bytes(2000)] * 3000, dictionary=True)
    splits = read_parquet_files(tmp_path, image_column="image", label_column=None)
    assert len(splits["train"]) == 3000
