"""`train` with each strategy, with a linear probe, with selection steps, and with `--auto`."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from pipeline.probing import out_of_fold
from pipeline.runs.files import read_json
from pipeline.runs.folder import (
    ADAPTER,
    ADAPTER_FILES,
    CARD,
    FIGURES,
    PREDICTIONS,
    PUBLISHED,
    RESULTS,
    TRAINER_STATE,
    RunFolder,
)
from pipeline.runs.lock import lock
from pipeline.runs.publish import published_files

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def fast(train_flags: list[str]) -> list[str]:
    """Two steps."""
    return [*train_flags, "--max_steps=2"]


def test_the_head_strategy_leaves_a_complete_run(
    vit_pipeline: Run, probe_flags: list[str], photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    folder = tmp_path / "head"
    code, out, err = vit_pipeline("train", *probe_flags, f"--output_dir={folder}")
    assert code == 0, err
    assert {path.name for path in folder.iterdir()} == {name.partition("/")[0] for name in published_files(folder)}
    assert set(PUBLISHED) - set(published_files(folder)) == {TRAINER_STATE}
    results = read_json(folder / RESULTS)
    assert results["eval_accuracy"] == results["probe_eval_accuracy"] > 0.8
    assert [row["images_per_class"] for row in results["learning_curve"]] == [1, 2, 5, 10, 12]
    assert "top-1" in out
    card = (folder / CARD).read_text()
    assert "a linear probe on `" in card
    assert "| 12 | " in card
    classify = pipeline("image-classification", model=str(folder))
    picture = next((photos / "test" / "red").iterdir())
    assert classify(str(picture))[0]["label"] == "red"
    table = pq.read_table(folder / PREDICTIONS)
    assert len(table) == results["eval_samples"] + results["test_samples"]
    assert RunFolder(folder).record["timings"].keys() >= {"features", "probe"}
    caplog.clear()
    vit_pipeline("train", *probe_flags, f"--output_dir={tmp_path / 'again'}")
    assert "read the features of 36 images from the cache" in caplog.text


def test_fine_tuning_starts_from_the_head_of_the_probe(vit_pipeline: Run, fast: list[str], tmp_path: Path) -> None:
    scores = {}
    for start in ("random", "probe"):
        folder = tmp_path / start
        code, _, err = vit_pipeline(
            "train", *fast, "--warmup_steps=2", "--learning_rate=1e-6", f"--head_init={start}", f"--output_dir={folder}"
        )
        assert code == 0, err
        scores[start] = read_json(folder / RESULTS)["eval_accuracy"]
    assert scores["probe"] > max(0.8, scores["random"])


def test_the_baseline_is_logged_and_changes_nothing(
    vit_pipeline: Run, fast: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    for name, flags in (("plain", []), ("baseline", ["--baseline"])):
        assert vit_pipeline("train", *fast, *flags, f"--output_dir={tmp_path / name}")[0] == 0
    assert "frozen features: validation accuracy " in caplog.text
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "baseline"))
    assert one == other


def test_fixres_saves_the_network_at_the_resolution_that_it_logs(
    vit_pipeline: Run, fast: list[str], photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    folder = tmp_path / "run"
    code, _, err = vit_pipeline("train", *fast, "--image_size=32", "--fixres", f"--output_dir={folder}")
    assert code == 0, err
    side = read_json(folder / "config.json")["image_size"]
    assert read_json(folder / "preprocessor_config.json")["size"] == {"height": side, "width": side}
    results = read_json(folder / RESULTS)
    assert results["train_image_size"] == 32
    accuracy = f"{100 * results['eval_accuracy']:.2f}%"
    kept = f"{accuracy} with 36 px input" if side == 36 else f"{accuracy} before; keeping the present model"
    assert kept in caplog.text
    assert f"Input resolution: 32 px for training, {side} px for evaluation." in (folder / CARD).read_text()
    picture = next((photos / "test" / "red").iterdir())
    assert pipeline("image-classification", model=str(folder))(str(picture))


@pytest.mark.parametrize(("start", "kept"), [("random", True), ("zero", False)])
def test_a_refitted_head_is_kept_only_if_validation_improves(
    vit_pipeline: Run, fast: list[str], tmp_path: Path, start: str, kept: bool
) -> None:
    # At this learning rate a random head does not improve, and one step from zero separates these three classes.
    weights, results = {}, {}
    for name, flags in (("plain", []), ("refit", ["--refit_head"])):
        folder = tmp_path / name
        words = [f"--head_init={start}", "--learning_rate=1e-7", f"--output_dir={folder}"]
        code, _, err = vit_pipeline("train", *fast, *words, *flags)
        assert code == 0, err
        weights[name], results[name] = load_file(folder / "model.safetensors"), read_json(folder / RESULTS)
    refit = results["refit"]
    assert refit["trained_head_eval_accuracy"] == results["plain"]["eval_accuracy"]
    assert refit["eval_accuracy"] == max(refit["refit_eval_accuracy"], refit["trained_head_eval_accuracy"])
    changed = {key for key, value in weights["plain"].items() if not torch.equal(value, weights["refit"][key])}
    assert changed == ({"classifier.weight", "classifier.bias"} if kept else set())
    assert f"The {'refitted' if kept else 'trained'} head was kept." in (tmp_path / "refit" / CARD).read_text()


def test_auto_logs_its_reasons_and_a_flag_overrides_its_choice(
    vit_pipeline: Run, photos: Path, tiny_vit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    words = ["train", f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", "--auto"]
    code, _, err = vit_pipeline(
        *words, "--num_train_epochs=1", "--weight_decay=0.1", "--dataloader_num_workers=0", f"--output_dir={tmp_path}/a"
    )
    assert code == 0, err
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("auto: --")]
    assert any(line.startswith("auto: --weight_decay 0.05: ") and line.endswith("(overridden)") for line in lines)
    assert not any("num_train_epochs" in line for line in lines)
    chosen = RunFolder(tmp_path / "a").arguments
    assert (chosen["num_train_epochs"], chosen["weight_decay"]) == (1, 0.1)
    assert (chosen["layer_decay"], chosen["mixup"]) == (0.85, 0.8)
    assert "auto" not in chosen
    assert "the training labels are not checked" not in caplog.text
    results = read_json(tmp_path / "a" / RESULTS)
    probe, trained = results["auto_probe_eval_accuracy"], results["auto_trained_eval_accuracy"]
    assert results["eval_accuracy"] == max(probe, trained)
    assert f"The {'probe' if probe > trained else 'trained model'} was kept." in (tmp_path / "a" / CARD).read_text()
    code, _out, err = vit_pipeline(*words, "--num_train_epochs=1", "--weight_decay=0.1", f"--output_dir={tmp_path}/a")
    assert code == 0, err
    assert "was finished before; showing its results" in caplog.text
    assert "auto: keeping the choices of the run: --" in caplog.text


@pytest.mark.parametrize(
    ("flags", "advice"),
    [(["--strategy=head"], ""), (["--mixup=0.5", "--num_train_epochs=1"], ": train without --mixup and --cutmix")],
)
def test_labels_of_many_images_are_not_checked_and_no_probe_is_advised(
    vit_pipeline: Run,
    photos: Path,
    tiny_vit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    flags: list[str],
    advice: str,
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    monkeypatch.setattr(out_of_fold, "MAX_IMAGES", 35)
    words = [f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", f"--output_dir={tmp_path}", *flags]
    code, _, err = vit_pipeline("train", *words, "--dataloader_num_workers=0")
    assert code == 0, err
    assert f"the training labels are not checked{advice}" in [record.getMessage() for record in caplog.records]


def test_auto_trains_a_network_on_which_no_probe_can_be_fitted(
    vit_pipeline: Run, photos: Path, two_heads: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    words = [f"--model_name_or_path={two_heads}", f"--dataset_name={photos}", "--auto", "--num_train_epochs=1"]
    code, _, err = vit_pipeline("train", *words, "--dataloader_num_workers=0", f"--output_dir={tmp_path}")
    assert code == 0, err
    assert "the training labels are not checked: train without --mixup and --cutmix" in caplog.text
    assert "auto_probe_eval_accuracy" not in read_json(tmp_path / RESULTS)


def test_auto_tries_nothing_for_a_folder_that_cannot_be_used(
    vit_pipeline: Run, photos: Path, tiny_vit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    (tmp_path / "notes.txt").write_text("not a run")
    words = [f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", "--auto", f"--output_dir={tmp_path}"]
    code, _, err = vit_pipeline("train", *words)
    assert (code, err) == (2, f"error: {tmp_path} is not empty and is not a run folder: choose another --output_dir\n")
    assert "auto" not in caplog.text


def test_auto_tries_nothing_while_another_command_writes_into_the_folder(
    vit_pipeline: Run, photos: Path, tiny_vit: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    words = [f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", f"--output_dir={tmp_path}/run"]
    with lock(tmp_path / "run"):
        code, _, err = vit_pipeline("train", "--auto", *words)
    assert (code, "another command is writing into" in err) == (2, True)
    assert "auto" not in caplog.text


def test_auto_does_not_continue_a_run_without_it(
    vit_pipeline: Run, photos: Path, tiny_vit: Path, tmp_path: Path
) -> None:
    words = [f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", f"--output_dir={tmp_path}/run"]
    code, _, err = vit_pipeline("train", *words, "--strategy=head")
    assert code == 0, err
    code, _, err = vit_pipeline("train", "--auto", *words, "--strategy=head")
    assert (code, err) == (2, f"error: {tmp_path}/run holds a run without --auto: choose another --output_dir\n")


def test_auto_compares_candidates_on_validation_and_trains_the_best_one(
    vit_pipeline: Run,
    make_folder: Callable[..., Path],
    tiny_vit: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    photos = make_folder(train=12, validation=20, test=4)
    words = ["train", f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", "--auto", "--hflip=0.5"]
    words += ["--dataloader_num_workers=0", "--precision=fp32", "--num_train_epochs=13", "--global_batch_size=12"]
    for name in ("first", "second"):
        code, _, err = vit_pipeline(*words, f"--output_dir={tmp_path / name}")
        assert code == 0, err
    first, second = RunFolder(tmp_path / "first"), RunFolder(tmp_path / "second")
    trials = first.record["trials"]
    assert [trial["candidate"] for trial in trials[:3]] == [
        "the settings above", "a lower learning rate", "stronger augmentation"
    ]  # fmt: skip
    (chosen,) = [trial for trial in trials if trial["chosen"]]
    assert chosen["epochs"] == max(trial["epochs"] for trial in trials)
    assert {flag: first.arguments[flag] for flag in chosen["flags"]} == chosen["flags"]
    assert first.arguments["hflip"] == 0.5
    assert f"auto: {len(trials)} trials chose {chosen['candidate']}" in caplog.text
    # The second run read the results of the trials from the cache, and trained the same model.
    without_time = [[{**trial, "seconds": 0} for trial in run.record["trials"]] for run in (first, second)]
    assert without_time[0] == without_time[1]
    weights = [load_file(run.folder / "model.safetensors") for run in (first, second)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


@pytest.mark.parametrize(("flags", "warns"), [([], True), (["--layer_decay=0.7"], False), (["--from_scratch"], False)])
def test_a_learning_rate_that_destroys_the_features_is_warned_of(
    vit_pipeline: Run, fast: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture, flags: list[str], warns: bool
) -> None:
    code, _, err = vit_pipeline("train", *fast, "--learning_rate=1e-3", *flags, f"--output_dir={tmp_path / 'run'}")
    assert code == 0, err
    assert ("is high enough to destroy the pre-trained features" in caplog.text) == warns


def test_lora_leaves_a_complete_run_and_its_adapter(vit_pipeline: Run, fast: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "lora"
    code, _, err = vit_pipeline("train", *fast, "--strategy=lora", "--keep_adapter", f"--output_dir={folder}")
    assert code == 0, err
    assert set(published_files(folder)) - set(FIGURES) == {*PUBLISHED, *ADAPTER_FILES}
    assert {path.name for path in (folder / ADAPTER).iterdir()} == {name.partition("/")[2] for name in ADAPTER_FILES}


def test_an_unfinished_head_run_is_finished(vit_pipeline: Run, probe_flags: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "head"
    words = ["train", *probe_flags, f"--output_dir={folder}"]
    assert vit_pipeline(*words)[0] == 0
    before = (folder / "model.safetensors").read_bytes()
    RunFolder(folder).update(status="running")
    torch.manual_seed(1)
    assert vit_pipeline(*words)[0] == 0
    assert (folder / "model.safetensors").read_bytes() == before
