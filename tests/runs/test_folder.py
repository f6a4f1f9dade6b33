"""The run folder: which run may use it, its atomic files, and the checkpoint that a resume loads."""

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.arguments.settings import DEFAULTS, NEUTRAL
from pipeline.errors import PipelineError
from pipeline.runs.claim import Call, check_data, claim, note_changes
from pipeline.runs.files import atomic_write, read_json, remove_absolute_path, remove_stale_folders, write_json
from pipeline.runs.folder import (
    CARD,
    MODEL_FILES,
    OPTIONAL,
    PREDICTIONS,
    PUBLISHED,
    RECIPE,
    RECORD,
    REPORT,
    RESULTS,
    TRAINER_STATE,
    UNCERTAINTY,
    RunFolder,
    default_folder,
    installed_versions,
    require_intact,
    start,
)
from tests.runs.damage import DAMAGE

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
    run = claim(tmp_path / "outputs" / "new", Call(ARGUMENTS))
    assert run.record == {}
    assert not run.finished
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").mkdir()
    assert claim(tmp_path / "empty", Call(ARGUMENTS)).record == {}
    assert list((tmp_path / "empty").iterdir()) == []


def test_a_folder_with_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("other")
    with pytest.raises(PipelineError, match="is not empty and is not a run folder: choose another --output_dir"):
        claim(tmp_path, Call(ARGUMENTS))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_run_is_rejected_with_all_differences(tmp_path: Path) -> None:
    started(tmp_path)
    with pytest.raises(PipelineError) as caught:
        claim(tmp_path, Call(ARGUMENTS | {"seed": 1, "weight_decay": 0.1, "learning_rate": 3e-3}))
    assert str(caught.value) == (
        f"{tmp_path} holds another run (seed: 42 in the run folder, 1 on the command line; "
        "weight_decay: None in the run folder, 0.1 on the command line)\n"
        "choose another --output_dir; or remove that folder to start again; or add --resume anyway to continue it on "
        "purpose"
    )


def test_settings_that_do_not_change_training_may_differ_in_the_same_run(tmp_path: Path) -> None:
    started(tmp_path)
    neutral = {"save_total_limit": 5, "output_dir": "elsewhere", "dataloader_num_workers": 4, "push_to_hub": True}
    assert neutral.keys() <= NEUTRAL
    run = claim(tmp_path, Call(ARGUMENTS | neutral, neutral=NEUTRAL))
    check_data(run, fingerprint="abc")
    assert run.record["status"] == "running"
    assert not run.finished


def test_a_flag_that_is_newer_than_the_run_has_its_default_there(tmp_path: Path) -> None:
    started(tmp_path)
    newer = ARGUMENTS | {"coverage": DEFAULTS["coverage"], "head_init": "random", "baseline": False}
    assert claim(tmp_path, Call(newer, defaults=DEFAULTS)).record["status"] == "running"
    with pytest.raises(
        PipelineError, match=r"holds another run \(coverage: 0\.9 in the run folder, 0\.8 on the command"
    ):
        claim(tmp_path, Call(ARGUMENTS | {"coverage": 0.8}, defaults=DEFAULTS))


def finished_with(folder: Path, *names: str) -> RunFolder:
    run = started(folder)
    for name in (*(name for name in PUBLISHED if name not in (*OPTIONAL, RECIPE, RECORD)), *names):
        (folder / name).write_text(f"the content of {name}")
    run.finish()
    return run


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_a_finished_run_is_named(tmp_path: Path, damage: str) -> None:
    run = finished_with(tmp_path, UNCERTAINTY)
    require_intact(tmp_path)
    names = set(run.record["files"])
    assert names == {*MODEL_FILES, UNCERTAINTY, RESULTS, PREDICTIONS}
    for name in sorted(names):
        before = (tmp_path / name).read_bytes()
        DAMAGE[damage](tmp_path / name)
        with pytest.raises(PipelineError, match=rf": {name} is (missing|damaged).*: repeat its `train` command"):
            require_intact(tmp_path)
        (tmp_path / name).write_bytes(before)


def test_the_card_and_the_report_may_be_written_again_but_not_be_missing(tmp_path: Path) -> None:
    run = finished_with(tmp_path, REPORT)
    (tmp_path / CARD).write_text("another card")
    (tmp_path / REPORT).unlink()
    assert run.find_damage() is None
    (tmp_path / CARD).unlink()
    assert run.find_damage() == f"{CARD} is missing"


@pytest.mark.parametrize("name", [RECORD, RECIPE])
@pytest.mark.parametrize("damage", ["half", "zeroed"])
def test_a_damaged_record_is_one_line(tmp_path: Path, name: str, damage: str) -> None:
    started(tmp_path)
    (tmp_path / RECIPE).write_text('dataset_name: "photos of flowers"\n')
    DAMAGE[damage](tmp_path / name)
    with pytest.raises(PipelineError, match=rf"{name} cannot be read \(.*\): restore it from a backup, or remove"):
        claim(tmp_path, Call(ARGUMENTS))


def test_a_finished_run_is_claimed_as_finished(tmp_path: Path) -> None:
    started(tmp_path).update(status="finished")
    assert claim(tmp_path, Call(ARGUMENTS)).finished


def test_a_run_whose_data_changed_is_rejected(tmp_path: Path) -> None:
    run = started(tmp_path)
    with pytest.raises(
        PipelineError, match=r"the data changed after the run in .* started\nchoose another --output_dir"
    ):
        check_data(run, fingerprint="xyz")


def test_a_run_of_other_versions_or_processes_is_rejected_unless_it_is_finished(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.update(versions=run.record["versions"] | {"torch": "2.0.1", "datasets": "1.0"})
    message = (
        r"was started with other versions or processes \(torch: 2\.0\.1 in the run folder, \S+ now\)\nuse the same"
    )
    with pytest.raises(PipelineError, match=message):
        claim(tmp_path, Call(ARGUMENTS))
    run.update(versions=installed_versions())
    with pytest.raises(PipelineError, match=r"processes \(processes: 1 in the run folder, 2 now\)\nuse the same again"):
        claim(tmp_path, Call(ARGUMENTS, machine={"processes": 2}))
    run.update(status="finished")
    assert claim(tmp_path, Call(ARGUMENTS, machine={"processes": 2})).finished


def test_the_number_of_processes_may_change_with_a_fixed_global_batch_size(tmp_path: Path) -> None:
    started(tmp_path, global_batch_size=8)
    assert claim(tmp_path, Call(ARGUMENTS | {"global_batch_size": 8}, machine={"processes": 2})).record


def test_a_changed_run_is_continued_on_purpose_and_says_so(tmp_path: Path) -> None:
    run = started(tmp_path)
    run.update(versions=run.record["versions"] | {"torch": "2.0.1"})
    changed = ARGUMENTS | {"seed": 1, "dataset_name": "/data/photos"}
    call = Call(changed, machine={"device": "cuda", "processes": 2}, anyway=True)
    assert claim(tmp_path, call) == run
    check_data(run, fingerprint="xyz", anyway=True)
    note_changes(run, call, data=DATA | {"fingerprint": "xyz"}, command=[*COMMAND, "--resume=anyway"])
    (entry,) = run.record["overridden"]
    assert entry["changes"] == [
        {"name": "dataset_name", "before": "photos", "now": "photos"},  # in another folder, which is not published
        {"name": "seed", "before": 42, "now": 1},
        {"name": "torch", "before": "2.0.1", "now": installed_versions()["torch"]},
        {"name": "processes", "before": 1, "now": 2},
        {"name": "data", "before": "abc", "now": "xyz"},
    ]
    assert entry["command"] == ["vit-pipeline", "train", "--seed=42", "--dataset_name", "photos", "--resume=anyway"]
    assert run.arguments["seed"] == 1
    assert run.record["machine"].items() >= {"device": "cuda", "processes": 2}.items()
    (tmp_path / TRAINER_STATE).write_text("{}")
    with pytest.raises(PipelineError, match="is complete, so other settings would have no effect"):
        claim(tmp_path, Call(ARGUMENTS, anyway=True))
    again = Call(call.arguments, machine=call.machine)
    assert claim(tmp_path, again) == run  # from now on, it is the changed run
    note_changes(run, again, data=DATA | {"fingerprint": "xyz"}, command=COMMAND)
    assert len(run.record["overridden"]) == 1
    run.update(status="finished")
    with pytest.raises(PipelineError, match="holds another run"):
        claim(tmp_path, Call(ARGUMENTS, anyway=True))


def test_checking_an_unwritable_folder_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("other")
    with pytest.raises(PipelineError, match=r"cannot write into .*run \(Not a directory\): choose another"):
        claim(tmp_path / "file" / "deep" / "run", Call(ARGUMENTS))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "other"
    with pytest.raises(PipelineError, match=r"cannot write into .*file \(File exists\)"):
        claim(tmp_path / "file", Call(ARGUMENTS))


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


def test_only_old_temporary_folders_are_removed(tmp_path: Path) -> None:
    for name in ("trial-old", "trial-new", "other-old"):
        (tmp_path / name / "checkpoint-1").mkdir(parents=True)
    (tmp_path / "trial-link").symlink_to(tmp_path / "other-old")
    long_ago = time.time() - 4 * 24 * 3600
    for name in ("trial-old", "other-old"):
        os.utime(tmp_path / name, (long_ago, long_ago))
    remove_stale_folders(tmp_path, "trial-*")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-old", "trial-link", "trial-new"]


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
    run = claim(tmp_path, Call({"seed": 2}))
    start(run, command=COMMAND, arguments={"seed": 2}, data={}, machine={})
    assert run.arguments == {"seed": 2}
    assert run.record["status"] == "running"
