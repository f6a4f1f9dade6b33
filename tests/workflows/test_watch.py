"""`predict --watch`: what arrives is labeled once, also after a restart, and what cannot be read is named once."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline import predict
from pipeline.errors import BadImageError, PipelineError
from pipeline.images.decode import open_image
from pipeline.runs.appended_table import AppendedTable
from pipeline.workflows.watch import PATIENCE_SECONDS, Arrivals
from tests.conftest import noisy_image


def polled(arrivals: Arrivals, now: float) -> list[str]:
    return [str(name) for name, _ in arrivals.poll(now)]


@pytest.fixture
def arrivals(tmp_path: Path) -> Iterator[Arrivals]:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    table = AppendedTable(tmp_path / "labels.csv", ["image"], rows_per_item=1, flag="--output")
    yield Arrivals(tmp_path / "in", table)
    table.close()


def test_an_image_is_read_when_its_size_and_time_are_stable(arrivals: Arrivals) -> None:
    image = arrivals.folder / "sub" / "a.png"
    image.write_bytes(b"half")
    (arrivals.folder / "notes.txt").write_text("no image")
    assert polled(arrivals, 0) == []
    image.write_bytes(b"half and more")
    assert polled(arrivals, 1) == []
    assert polled(arrivals, 2) == ["sub/a.png"]
    arrivals.table.append([["sub/a.png"]])
    arrivals.report({"sub/a.png": None})
    assert polled(arrivals, 3) == []
    image.unlink()
    assert polled(arrivals, 4) == []


def test_an_image_that_cannot_be_read_is_tried_again_after_it_changes_and_named_once(arrivals: Arrivals) -> None:
    image = arrivals.folder / "a.png"
    image.write_bytes(b"half")
    polled(arrivals, 0)
    assert polled(arrivals, 1) == ["a.png"]
    arrivals.report({"a.png": "a.png: truncated"})
    assert arrivals.broken(2) == {}
    image.write_bytes(b"half and more")
    assert polled(arrivals, PATIENCE_SECONDS) == []
    assert arrivals.broken(PATIENCE_SECONDS + 1) == {}
    assert polled(arrivals, PATIENCE_SECONDS + 1) == ["a.png"]
    arrivals.report({"a.png": "a.png: truncated"})
    assert arrivals.broken(2 * PATIENCE_SECONDS) == {"a.png": "truncated"}
    assert polled(arrivals, 3 * PATIENCE_SECONDS) == []
    assert arrivals.broken(3 * PATIENCE_SECONDS) == {}


def test_a_named_pipe_is_named_and_not_opened(arrivals: Arrivals) -> None:
    os.mkfifo(arrivals.folder / "pipe.png")
    polled(arrivals, 0)
    ((name, path),) = arrivals.poll(1)
    with pytest.raises(BadImageError, match=r"^pipe\.png: not a regular file$") as error:
        open_image(Path(str(path)), name=str(name))
    arrivals.report({name: str(error.value)})
    assert arrivals.broken(1 + PATIENCE_SECONDS) == {"pipe.png": "not a regular file"}


def test_a_folder_that_is_away_for_a_moment_is_waited_for(arrivals: Arrivals) -> None:
    (arrivals.folder / "a.png").write_bytes(b"image")
    polled(arrivals, 0)
    arrivals.folder.rename(arrivals.folder.with_name("away"))
    assert polled(arrivals, 1) == []
    arrivals.folder.with_name("away").rename(arrivals.folder)
    assert polled(arrivals, 2) == []
    assert polled(arrivals, 3) == ["a.png"]


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    give_up = time.monotonic() + 120
    while not condition():
        if process.poll() is not None or time.monotonic() > give_up:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.1)


def test_images_are_labeled_once_also_after_a_restart(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    folder, output, errors = tmp_path / "in", tmp_path / "labels.csv", tmp_path / "errors.csv"
    folder.mkdir()
    images = sorted((photos / "test").rglob("00[01].png"))
    for number, image in enumerate(images[:3]):
        shutil.copy(image, folder / f"{number}.png")
    (folder / "bad.png").write_bytes(b"no image")
    words = [sys.executable, "-m", "pipeline", "predict", f"--model={finished_run}", "--top_k=2", f"--output={output}",
             f"--errors={errors}"]  # fmt: skip

    def names() -> list[str]:
        return list(pd.read_csv(output)["image"][::2]) if output.exists() and output.stat().st_size else []

    with subprocess.Popen([*words, f"--watch={folder}"], stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: errors.exists() and "bad.png" in errors.read_text(), process)
        data = images[3].read_bytes()
        (folder / "3.png").write_bytes(data[:100])
        time.sleep(3)
        (folder / "3.png").write_bytes(data)
        wait_for(lambda: len(names()) == 4, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
        assert process.stderr is not None
        said = process.stderr.read()
    assert said.count("cannot read bad.png: not an image but a text file") == 1
    assert "3.png:" not in said
    assert said.endswith(f"stopped by SIGTERM: repeat the command to continue {output}\n")
    shutil.copy(images[4], folder / "4.png")
    relative = os.path.relpath(folder)
    with subprocess.Popen([*words, f"--watch={relative}"], stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: len(names()) == 5, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 128 + signal.SIGINT
        assert process.stderr is not None
        assert "cannot read" not in process.stderr.read()
    assert names() == [f"{number}.png" for number in range(5)]
    expected = predict(finished_run, [str(image) for image in images[:5]], top_k=2)
    table = pd.read_csv(output)
    assert list(table["label"]) == list(expected["label"])
    assert list(table["probability"]) == pytest.approx(list(expected["probability"]), abs=1e-4)
    assert errors.read_text() == "image,reason\nbad.png,not an image but a text file\n"


def test_flags_that_do_not_fit_are_refused_together(
    finished_run: Path, vit_pipeline: Callable[..., Any], tmp_path: Path
) -> None:
    noisy_image((1, 2, 3), 0).save(tmp_path / "a.png")
    words = ["predict", f"--model={finished_run}", f"--watch={tmp_path / 'none'}", "--output=labels.jsonl"]
    code, _, err = vit_pipeline(*words, "--bad_images=fail", tmp_path / "a.png")
    assert code == 2
    for text in (
        "--watch appends to a CSV file: add --output FILE.csv",
        "none is not a folder: pass an existing folder",
        "--watch labels the images of its folder only: remove ",
        "--bad_images fail does not: remove --bad_images",
    ):
        assert text in err
    with pytest.raises(PipelineError, match="--watch runs until it is stopped"):
        predict(finished_run, [], watch=tmp_path, output=tmp_path / "labels.csv")
