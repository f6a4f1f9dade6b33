"""A run on a stream: its steps, its resume."""

import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch

from pipeline.data.streaming import Stream
from tests.training.fitting import Fitted, same

EACH_FOUR = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}


@pytest.fixture
def streamed(splits: datasets.DatasetDict, tmp_path: Path) -> datasets.DatasetDict:
    """The training images in two files, as a stream."""
    train = splits["train"].remove_columns("index").cast_column("image", datasets.Image())
    for number in range(2):
        train.shard(2, number).to_parquet(tmp_path / f"{number}.parquet")
    files = [str(tmp_path / f"{number}.parquet") for number in range(2)]
    rows = datasets.load_dataset("parquet", data_files=files, streaming=True)["train"]
    rows = rows.cast_column("image", datasets.Image(decode=False))
    stream = Stream(rows, num_images=len(train), identity="1", skip_bad_images=False)
    return datasets.DatasetDict(splits | {"train": stream})


def test_an_epoch_of_a_stream_has_as_many_steps_and_the_run_learns(
    fitted: Callable[..., Fitted], streamed: datasets.DatasetDict
) -> None:
    done = fitted(data=streamed, num_train_epochs=5)
    assert done.state["global_step"] == 5 * 6
    assert done.log("epoch")[-1] == 5
    assert max(done.log("eval_accuracy")) > 0.8
    assert not torch.equal(done.seen[0], done.seen[6])


def test_a_resumed_stream_is_the_uninterrupted_one(
    fitted: Callable[..., Fitted], streamed: datasets.DatasetDict, tmp_path: Path
) -> None:
    whole = fitted("whole", data=streamed, **EACH_FOUR, save_total_limit=None)
    for step in (4, 8):
        shutil.copytree(whole.folder / f"checkpoint-{step}", tmp_path / "parts" / f"checkpoint-{step}")
    parts = fitted("parts", data=streamed, **EACH_FOUR, save_total_limit=None)
    assert len(parts.seen) == 18 - 8
    assert parts.log("loss") == whole.log("loss")
    assert same(dict(whole.model.state_dict()), dict(parts.model.state_dict()))
