"""The run folder: which run may use it, its atomic files, and the checkpoint that a resume loads."""

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.arguments.settings import NEUTRAL
from pipeline.errors import PipelineError
from pipeline.runs.checkpoints import newest_complete_checkpoint
from pipeline.runs.files import atomic_write, read_json, remove_absolute_path, write_json
from pipeline.runs.folder import RECIPE, RECORD, RunFolder, check_data, claim, default_folder, start

ARGUMENTS = {"learning_rate": 3e-3, "seed": 42, "dataset_name": "photos", "image_size": None, "save_total_limit": 1}
COMMAND = ["train", "--seed=42", "--dataset_name", "/home/ann/photos"]
DATA = {"name": "photos", "fingerprint": "abc", "samples": {"train": 3}}


def started(folder: Path, **changes: Any) -> RunFolder:
    run = RunFolder(folder)
    start(run, command=COMMAND, arguments=ARGUMENTS | changes, data=DATA, machine={"device": "cpu"})
    return run


@pytest.mark.parametrize(
    ("recipe", "dataset", "expected"),
    [
        ("synthetic-flowers", "anything", "synthetic-flowers-seed7"),
        ("configs/custom.yaml", None, "custom-seed7"),
        (None, "google/flowers-102", "flowers-102-seed7"),
        (None, "data/my photos/", "my-photos-seed7"),
        (None, "rosés & tulips", "ros-s-tulips-seed7"),
    ],
)
def test_the_default_folder_is_named_after_recipe_or_dataset_and_seed(
    recipe: str | None, dataset: str | None, expected: str
) -> None:
    assert default_folder(recipe=recipe, dataset=dataset, seed=7) == Path("outputs") / expected


def test_repeating_a_run_gets_a_folder_named_after_that_run(tmp_path: Path) -> None:
    assert default_folder(recipe=f"{tmp_path}/roses/recipe.yaml", dataset="x", seed=7) == Path(
        "outputs/roses-again-seed7"
    )


def test_the_default_folder_for_a_dot_is_named_after_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "roses").mkdir()
    monkeypatch.chdir(tmp_path / "roses")
    assert default_folder(recipe=None, dataset=".", seed=0) == Path("outputs/roses-seed0")


def test_claiming_a_new_or_empty_folder_creates_nothing(tmp_path: Path) -> None:
    run = claim(tmp_path / "outputs" / "new", arguments=ARGUMENTS)
    assert run.record == {}
    assert not run.finished
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    assert claim(tmp_path / "empty", arguments=ARGUMENTS).record == {}
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_folder_with_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("other")
    with pytest.raises(PipelineError, match="is not empty and is not a run folder: choose another --output_dir"):
        claim(tmp_path, arguments=ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_run_is_rejected_with_all_differences(tmp_path: Path) -> None:
    started(tmp_path)
    with pytest.raises(PipelineError) as caught:
        claim(tmp_path, arguments=ARGUMENTS | {"seed": 1, "weight_decay": 0.1, "learning_rate": 3e-3})
    assert str(caught.value) == (
        f"{tmp_path} holds another run (seed: 42 in the run folder, 1 on the command line; "
        "weight_decay: None in the run folder, 0.1 on the command line)\n"
        "choose another --output_dir; or remove that folder to start again"
    )


def test_settings_that_do_not_change_training_may_differ_in_the_same_run(tmp_path: Path) -> None:
    started(tmp_path)
    neutral = {"save_total_limit": 5, "output_dir": "elsewhere", "dataloader_num_workers": 4, "push_to_hub": True}
    assert neutral.keys() <= NEUTRAL
    run = claim(tmp_path, arguments=ARGUMENTS | neutral, neutral=NEUTRAL)
    check_data(run, fingerprint="abc")
    assert run.record["status"] == "running"
    assert not run.finished


def test_a_finished_run_is_claimed_as_finished(tmp_path: Path) -> None:
    started(tmp_path).update(status="finished")
    assert claim(tmp_path, arguments=ARGUMENTS).finished


def test_a_run_whose_data_changed_is_rejected(tmp_path: Path) -> None:
    run = started(tmp_path)
    with pytest.raises(
        PipelineError, match=r"the data changed after the run in .* started\nchoose another --output_dir"
    ):
        check_data(run, fingerprint="xyz")


def test_checking_an_unwritable_folder_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("other")
    with pytest.raises(PipelineError, match=r"cannot write into .*run \(Not a directory\): choose another"):
        claim(tmp_path / "file" / "deep" / "run", arguments=ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "other"
    with pytest.raises(PipelineError, match=r"cannot write into .*file \(File exists\)"):
        claim(tmp_path / "file", arguments=ARGUMENTS)


def test_starting_a_run_twice_writes_its_record_once(tmp_path: Path) -> None:
    run = started(tmp_path / "outputs" / "run")
    assert run.record["command"] == ["vit-pipeline", "train", "--seed=42", "--dataset_name", "photos"]
    assert run.record["data"] == DATA
    assert run.record["machine"]["device"] == "cpu"
    assert run.record["versions"].keys() >= {"python", "torch", "transformers"}
    assert run.arguments == {key: value for key, value in ARGUMENTS.items() if value is not None}
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    assert before.keys() == {RECORD, RECIPE}
    started(run.folder, seed=1)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before


def test_timings_add_up_over_calls_including_interrupted_ones(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.update(timings={"train": 100.0})
    with run.timed("train"):
        pass
    with pytest.raises(KeyboardInterrupt), run.timed("score"):
        raise KeyboardInterrupt
    assert run.record["timings"] == {"train": pytest.approx(100, abs=1), "score": pytest.approx(0, abs=1)}


def test_a_reader_never_sees_a_partial_file(tmp_path: Path) -> None:
    contents = [{"run": number, "rows": [number] * 20_000} for number in range(2)]
    path = tmp_path / "record.json"
    write_json(path, contents[0])
    done = threading.Event()

    def write() -> None:
        for number in range(40):
            write_json(path, contents[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = [read_json(path)]
    while not done.is_set():
        seen.append(read_json(path))
    writer.join()
    assert all(content in contents for content in seen)
    assert os.listdir(tmp_path) == ["record.json"]  # noqa: PTH208 (it lists hidden files too)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("old")

    def fail_halfway(error: Exception) -> None:
        with atomic_write(tmp_path / "metrics") as temporary:
            temporary.write_text("half of the n")
            raise error

    with pytest.raises(ZeroDivisionError):
        fail_halfway(ZeroDivisionError())
    with pytest.raises(PipelineError, match=r"cannot write .*metrics: No space left"):
        fail_halfway(OSError(28, "No space left on device"))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics"]
    assert (tmp_path / "metrics").read_text() == "old"


def test_writing_into_a_missing_folder_is_a_pipeline_error(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"cannot write .*record\.json: No such file"):
        write_json(tmp_path / "no" / "record.json", {})


@pytest.fixture
def two_checkpoints(finished_run: Path, tmp_path: Path) -> Path:
    """One complete checkpoint of the real Trainer, copied as step 6 and as step 12."""
    complete = newest_complete_checkpoint(finished_run)
    assert complete is not None
    for step in (6, 12):
        shutil.copytree(complete, tmp_path / f"checkpoint-{step}")
    return tmp_path


def test_the_newest_checkpoint_has_the_highest_step(two_checkpoints: Path) -> None:
    assert newest_complete_checkpoint(two_checkpoints) == two_checkpoints / "checkpoint-12"
    (two_checkpoints / "checkpoint-6").rename(two_checkpoints / "checkpoint-100")
    assert newest_complete_checkpoint(two_checkpoints) == two_checkpoints / "checkpoint-100"
    (two_checkpoints / "checkpoint-final").mkdir()
    assert newest_complete_checkpoint(two_checkpoints) == two_checkpoints / "checkpoint-100"


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def truncate_to_6_bytes(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:6])


@pytest.mark.parametrize("damage", [remove, empty, truncate, truncate_to_6_bytes])
@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
    ],
)
def test_an_incomplete_checkpoint_is_skipped_for_the_previous_one(
    two_checkpoints: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(two_checkpoints / "checkpoint-12" / name)
    assert newest_complete_checkpoint(two_checkpoints) == two_checkpoints / "checkpoint-6"
    damage(two_checkpoints / "checkpoint-6" / name)
    assert newest_complete_checkpoint(two_checkpoints) is None


def test_a_folder_without_checkpoints_has_no_newest_one(tmp_path: Path) -> None:
    assert newest_complete_checkpoint(tmp_path) is None
    assert newest_complete_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("train", "train"),
        ("--seed=42", "--seed=42"),
        ("google/vit-base", "google/vit-base"),
        ("/home/ann/photos", "photos"),
        ("--dataset_name=/home/ann/photos", "--dataset_name=photos"),
        ("~/photos", "photos"),
        ("--dataset_name=~/photos", "--dataset_name=photos"),
        ("/home/ann/lr=3/photos", "photos"),
        ("--dataset_name=/home/ann/lr=3/photos", "--dataset_name=photos"),
        ("HERE/outputs/run", "outputs/run"),
        ("--model=HERE/outputs/run", "--model=outputs/run"),
    ],
)
def test_absolute_paths_are_removed_from_command_line_words(word: str, expected: str) -> None:
    assert remove_absolute_path(word.replace("HERE", str(Path.cwd()))) == expected


def test_a_run_killed_before_its_record_was_written_starts_again(tmp_path: Path) -> None:
    (tmp_path / RECIPE).write_text("seed: 1\n")
    (tmp_path / f".{RECORD}.99").write_text("{")
    run = claim(tmp_path, arguments={"seed": 2})
    start(run, command=COMMAND, arguments={"seed": 2}, data={}, machine={})
    assert run.arguments == {"seed": 2}
    assert run.record["status"] == "running"
