"""A run knows its data and its model under any spelling of their paths, and one command at a time writes into it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.runs.checkpoints import newest_complete_checkpoint
from pipeline.runs.files import read_json
from pipeline.runs.folder import CARD, PUBLISHED, TRAINER_STATE, RunFolder
from pipeline.runs.lock import lock

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def relative_run(train_flags: list[str], photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data and model were given relative to the folder that contains them and the run."""
    root = tmp_path_factory.mktemp("work")
    shutil.copytree(photos, root / "photos")
    shutil.copytree(train_flags[0].partition("=")[2], root / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert cli.main(["train", *spelled(train_flags, "photos", "base")]) == 0
    return root / "outputs" / "photos-seed42"


def spelled(train_flags: list[str], data: str, model: str) -> list[str]:
    return [*train_flags, f"--dataset_name={data}", f"--model_name_or_path={model}"]


@pytest.mark.parametrize(
    ("data", "model"), [("photos/", "./base"), ("../{0}/photos", "base/"), ("{1}/photos", "{1}/base")]
)
def test_the_same_data_under_another_spelling_is_the_same_run(
    relative_run: Path,
    train_flags: list[str],
    vit_pipeline: Run,
    monkeypatch: pytest.MonkeyPatch,
    data: str,
    model: str,
) -> None:
    root = relative_run.parents[1]
    monkeypatch.chdir(root)
    words = spelled(train_flags, data.format(root.name, root), model.format(root.name, root))
    code, _, err = vit_pipeline("train", *words)
    assert code == 0, err
    assert [path.name for path in (root / "outputs").iterdir()] == [relative_run.name]


def test_a_run_is_scored_from_any_folder(
    relative_run: Path, vit_pipeline: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = vit_pipeline("evaluate", f"--model={relative_run}")
    assert code == 0, err
    assert out.startswith("test ")


def test_a_run_whose_data_is_gone_names_it(relative_run: Path, vit_pipeline: Run, tmp_path: Path) -> None:
    moved = shutil.copytree(relative_run, tmp_path / "run")
    recipe = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(recipe.replace(f"{relative_run.parents[1]}/photos", "/gone/photos"))
    code, _, err = vit_pipeline("evaluate", f"--model={moved}")
    assert code == 2
    assert f"{moved} was trained on /gone/photos, which does not exist: add --dataset_name DATA" in err


def test_published_files_name_no_folder_of_this_machine(relative_run: Path) -> None:
    text = b"".join((relative_run / name).read_bytes() for name in PUBLISHED if name != "recipe.yaml")
    assert str(relative_run.parents[1]).encode() not in text
    assert "photos" in RunFolder(relative_run).record["data"]["name"]


def test_a_finished_run_can_be_trained_further(relative_run: Path, train_flags: list[str], vit_pipeline: Run) -> None:
    words = [*train_flags, f"--dataset_name={relative_run.parents[1]}/photos", "--num_train_epochs=4"]
    code, _, err = vit_pipeline("train", *words, f"--output_dir={relative_run}")
    assert code == 2
    assert f"choose another --output_dir, with --model_name_or_path {relative_run} to train its model further" in err
    further = relative_run.with_name("further")
    words += ["--max_steps=1", f"--model_name_or_path={relative_run}", f"--output_dir={further}"]
    code, _, err = vit_pipeline("train", *words)
    assert code == 0, err


def test_a_folder_in_use_is_rejected(
    relative_run: Path, train_flags: list[str], vit_pipeline: Run, tmp_path: Path
) -> None:
    words = [*train_flags, f"--dataset_name={relative_run.parents[1]}/photos", "--max_steps=1"]
    with lock(tmp_path / "run"):
        code, _, err = vit_pipeline("train", *words, f"--output_dir={tmp_path}/run")
    assert code == 2
    assert "another command is writing into" in err
    assert not (tmp_path / "run").exists()
    with lock(relative_run):
        code, _, err = vit_pipeline("push", f"--model={relative_run}", "--hub_model_id=ann/vit")
    assert code == 2


def test_an_interrupted_run_is_continued_with_other_settings_only_on_purpose(
    train_flags: list[str], photos: Path, vit_pipeline: Run, tmp_path: Path
) -> None:
    """It has other images, half the batch size and a lower learning rate; one version was another one."""
    data, folder = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "run"
    words = [*train_flags, f"--dataset_name={data}", f"--output_dir={folder}", "--report=no", "--uncertainty=no"]
    assert vit_pipeline("train", *words)[0] == 0
    (folder / TRAINER_STATE).unlink()  # as if it was killed after the best epoch
    step = newest_complete_checkpoint(folder).name  # type: ignore[union-attr]
    assert step in ("checkpoint-6", "checkpoint-12")
    run = RunFolder(folder)
    run.update(status="running", versions=run.record["versions"] | {"accelerate": "0.1"})
    code, _, err = vit_pipeline("train", *words)
    assert (code, "(accelerate: 0.1 in the run folder, " in err, "add --resume anyway" in err) == (2, True, True)
    shutil.copy(data / "train" / "red" / "000.png", data / "train" / "red" / "again.png")
    changed = [*words, "--per_device_train_batch_size=3", "--learning_rate=1e-3"]
    code, _, err = vit_pipeline("train", *changed)
    assert (code, "learning_rate: 0.003 in the run folder, 0.001 on the command line" in err) == (2, True)
    code, _, err = vit_pipeline("train", *changed, "--resume=anyway")
    assert code == 0, err
    (entry,) = run.record["overridden"]
    names = ["learning_rate", "per_device_train_batch_size", "accelerate", "data"]
    assert [each["name"] for each in entry["changes"]] == names
    assert "A repetition will differ." in (folder / CARD).read_text()
    assert run.arguments["learning_rate"] == 1e-3
    state = read_json(folder / TRAINER_STATE)
    assert state["global_step"] == state["max_steps"] == 3 * 13  # 37 images in batches of 3
    rates = {row["step"]: row["learning_rate"] for row in state["log_history"] if "learning_rate" in row}
    first = min(each for each in rates if each > int(step.removeprefix("checkpoint-")))
    assert 0 < rates[first] <= 1e-3
    assert vit_pipeline("train", *changed)[0] == 0
    incompatible = shutil.copytree(folder, tmp_path / "incompatible")
    (incompatible / TRAINER_STATE).unlink()
    RunFolder(incompatible).update(status="running")
    other = [*changed, f"--output_dir={incompatible}", "--resume=anyway", "--optim=sgd"]
    code, _, err = vit_pipeline("train", *other)
    assert (code, "with these settings (its optimizer has no " in err) == (2, True), err
