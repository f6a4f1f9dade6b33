"""`train` audits its data: wrong labels, duplicates and leakage, and what the user does about them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.evaluation.audit.issues import read_issues
from pipeline.reporting.run import Run
from pipeline.runs.files import read_json
from pipeline.runs.folder import ISSUES, RECORD, RESULTS, TRAINER_STATE
from pipeline.runs.publish import published_files
from tests.conftest import noisy_image

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def flawed(make_folder: Callable[..., Path]) -> Path:
    """Colors with a wrong label, a repeated training image, and training images that are in test and validation."""
    folder = make_folder(train=12, validation=6, test=6)
    noisy_image((200, 50, 40), 7).save(folder / "train" / "blue" / "red.png")
    shutil.copy(folder / "train" / "green" / "003.png", folder / "train" / "green" / "@copy.png")
    shutil.copy(folder / "train" / "red" / "001.png", folder / "test" / "red" / "leaked.png")
    shutil.copy(folder / "train" / "red" / "002.png", folder / "validation" / "red" / "leaked.png")
    return folder


@pytest.fixture(scope="module")
def audited(flawed: Path, train_flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipeline import cli

    folder = tmp_path_factory.mktemp("runs") / "flawed"
    assert cli.main(["train", *words_of(flawed, train_flags, folder)]) == 0
    return folder


def words_of(data: Path, train_flags: list[str], folder: Path) -> list[str]:
    flags = [flag for flag in train_flags if not flag.startswith("--dataset_name")]
    return [*flags, f"--dataset_name={data}", "--baseline", "--num_train_epochs=6", f"--output_dir={folder}"]


def test_a_run_that_is_killed_after_training_writes_the_same_table(
    audited: Path, flawed: Path, train_flags: list[str], vit_pipeline: Command, tmp_path: Path
) -> None:
    """Only the best checkpoint is kept, but the margins are those of all epochs."""
    state = read_json(audited / TRAINER_STATE)
    assert state["best_global_step"] < state["global_step"]
    killed = shutil.copytree(audited, tmp_path / "killed")
    for name in (ISSUES, RESULTS, "model.safetensors"):
        (killed / name).unlink()
    code, _, err = vit_pipeline("train", *words_of(flawed, train_flags, killed))
    assert code == 0, err
    assert (killed / ISSUES).read_bytes() == (audited / ISSUES).read_bytes()


def test_the_table_names_the_flaws(audited: Path) -> None:
    issues = read_issues(audited / ISSUES)
    labels = [issue for issue in issues if issue.issue == "label"]
    assert (labels[0].split, labels[0].file) == ("train", "train/blue/red.png")
    assert (labels[0].given_label, labels[0].likely_label) == ("blue", "red")
    assert "out-of-fold" in labels[0].reason
    assert "mean margin" in labels[0].reason
    copies = {(each.split, each.file): (each.issue, each.other_file) for each in issues if each.issue != "label"}
    assert copies == {
        ("train", "train/green/@copy.png"): ("duplicate", "train/green/003.png"),
        ("validation", "validation/red/leaked.png"): ("leakage", "train/red/002.png"),
        ("test", "test/red/leaked.png"): ("leakage", "train/red/001.png"),
    }


def test_accuracy_without_leaked_images_is_in_results_report_and_card(audited: Path) -> None:
    results, record, run = read_json(audited / RESULTS), read_json(audited / RECORD), Run(audited)
    rows = run.predictions.query("split == 'test' and id != 'test/red/leaked.png'")
    assert (results["test_leaked"], results["test_unleaked_samples"]) == (1, 18)
    assert results["test_unleaked_accuracy"] == pytest.approx(rows["correct"].mean())
    assert results["test_unleaked_accuracy_low"] < results["test_unleaked_accuracy"] + 1e-9
    assert results["eval_leaked"] == 1
    assert {"split": "test", "issue": "leakage", "count": 1} in record["audit"]
    sentence = "1 of the 19 test images repeats an image of an earlier split. On the other 18 images, test accuracy is"
    page, card = ((audited / name).read_text(encoding="utf-8") for name in ("report.html", "README.md"))
    assert sentence in page
    assert sentence in card
    assert "labeled <b><bdi>blue</bdi></b>, more like <b><bdi>red</bdi></b>" in page
    section = page[page.index('id="issues"') : page.index('id="confidence"')]
    assert section.count('<div class="two">') == 3  # the pictures of train, validation and test are in the page
    assert ISSUES in published_files(audited)


def test_the_edited_table_takes_the_flaws_out(
    audited: Path, flawed: Path, probe_flags: list[str], tmp_path: Path, vit_pipeline: Command
) -> None:
    lines = (audited / ISSUES).read_text(encoding="utf-8").splitlines()
    actions = {"train/blue/red.png": "relabel", "copy.png": "drop", "leaked.png": "drop"}
    edited = [line + next((action for name, action in actions.items() if name in line), "") for line in lines[1:]]
    (tmp_path / "mine.csv").write_text("\n".join([lines[0], *edited]) + "\n", encoding="utf-8")
    flags = [flag for flag in probe_flags if not flag.startswith("--dataset_name")]
    words = [f"--dataset_name={flawed}", f"--drop_list={tmp_path / 'mine.csv'}", f"--relabel={tmp_path / 'mine.csv'}"]
    code, _, err = vit_pipeline("train", *flags, *words, f"--output_dir={tmp_path / 'run'}")
    assert code == 0, err
    record, before = read_json(tmp_path / "run" / RECORD), read_json(audited / RECORD)
    assert record["data"]["samples"] == {"train": 37, "validation": 18, "test": 18}
    assert record["data"]["fingerprint"] != before["data"]["fingerprint"]
    assert "--relabel: changing the label of 1 of 38 rows of train" in record["data"]["notes"]
    assert not [each for each in read_issues(tmp_path / "run" / ISSUES) if each.issue != "label"]
    results = read_json(tmp_path / "run" / RESULTS)
    assert (results["test_leaked"], "test_unleaked_accuracy" in results) == (0, False)
    code, _, err = vit_pipeline("evaluate", f"--model={tmp_path / 'run'}")  # the recipe names the lists
    assert code == 0, err


def test_no_audit_leaves_nothing(probe_flags: list[str], tmp_path: Path, vit_pipeline: Command) -> None:
    code, _, err = vit_pipeline("train", *probe_flags, "--audit=no", f"--output_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert not (tmp_path / "run" / ISSUES).exists()
    assert "audit" not in read_json(tmp_path / "run" / RECORD)
    assert "test_leaked" not in read_json(tmp_path / "run" / RESULTS)
    assert "The data was not audited" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "audit of the data" not in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
