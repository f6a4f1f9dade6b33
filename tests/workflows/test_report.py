"""`train` writes thumbnails and report; `report` writes the report again from the folder alone."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import report
from pipeline.evaluation.explanations.gallery import read_gallery
from pipeline.evaluation.predictions import read_predictions
from pipeline.evaluation.thumbnails import read_thumbnails
from pipeline.runs.folder import CARD, PREDICTIONS, RELEVANCE, REPORT, RESULTS, THUMBNAILS
from pipeline.runs.lock import lock
from pipeline.runs.publish import published_contents

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def copied(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run without its checkpoints and its model."""
    ignored = shutil.ignore_patterns("checkpoint-*", "model.safetensors")
    return shutil.copytree(finished_run, tmp_path / "run", ignore=ignored)


def test_train_writes_thumbnails_of_test_and_the_report(finished_run: Path) -> None:
    (_, test), _ = read_predictions(finished_run / PREDICTIONS)
    stored = read_thumbnails(finished_run / THUMBNAILS)
    assert {split for split, _ in stored} == {"test"}
    assert {name for _, name in stored} <= set(test.ids)
    assert len(stored) >= 3
    page = (finished_run / REPORT).read_text(encoding="utf-8")
    assert "of 18 test images are classified correctly" in page
    gallery = read_gallery(finished_run / RELEVANCE)
    assert {split for split, _ in gallery.maps} == {"test"}
    assert page.count("data:image/jpeg;base64,") >= len(stored) + len(gallery.maps)
    assert page.count("map trusted") + page.count("map not trusted") + page.count("map not compared") >= len(
        gallery.maps
    )
    assert str(finished_run.parent) not in page
    published_contents(finished_run)


def test_the_verb_and_the_function_write_the_same_page_again(
    copied: Path, finished_run: Path, vit_pipeline: Run
) -> None:
    original = (finished_run / REPORT).read_text(encoding="utf-8")
    (copied / REPORT).unlink()
    assert vit_pipeline("report", f"--model={copied}") == (0, f"{copied / REPORT}\n", "")
    written = (copied / REPORT).read_text(encoding="utf-8")
    assert written.replace("<bdi>run</bdi>", "<bdi>colors</bdi>").replace("<title>run:", "<title>colors:") == original
    (copied / REPORT).unlink()
    assert report(copied) == copied / REPORT
    assert (copied / REPORT).read_text(encoding="utf-8") == written


def test_a_run_without_report_has_all_other_files_and_can_get_one(
    vit_pipeline: Run, probe_flags: list[str], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    code, _, err = vit_pipeline("train", *probe_flags, "--report=no", f"--output_dir={folder}")
    assert code == 0, err
    assert not {REPORT, THUMBNAILS, RELEVANCE} & {path.name for path in folder.iterdir()}
    assert {CARD, RESULTS} < {path.name for path in folder.iterdir()}
    assert vit_pipeline("train", *probe_flags, f"--output_dir={folder}")[0] == 0  # the flag does not make another run
    assert vit_pipeline("report", f"--model={folder}")[0] == 0
    assert "lacks thumbnails.parquet" in (folder / REPORT).read_text(encoding="utf-8")


def test_a_folder_that_is_not_a_run_or_is_in_use_is_rejected(vit_pipeline: Run, copied: Path, tmp_path: Path) -> None:
    code, _, err = vit_pipeline("report", f"--model={tmp_path}")
    assert (code, err) == (2, f"error: {tmp_path} is not a run folder: pass a folder that `train` wrote\n")
    assert vit_pipeline("report")[2] == "error: no run given: pass --model RUN\n"
    with lock(copied):
        code, _, err = vit_pipeline("report", f"--model={copied}")
    assert code == 2
    assert "another command is writing into" in err
    (copied / PREDICTIONS).unlink()
    code, _, err = vit_pipeline("report", f"--model={copied}")
    assert code == 2
    assert err == f"error: {copied} has no {PREDICTIONS}: copy the file from the original run folder\n"
