import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import binomtest

from pipeline import evaluate
from pipeline.errors import PipelineError
from pipeline.evaluation.comparison import DISCORDANT
from pipeline.evaluation.predictions import read_predictions
from pipeline.runs.files import read_json, write_json
from pipeline.runs.folder import CARD, PREDICTIONS, RECORD, RESULTS
from tests.conftest import COLORS, noisy_image

Run = Callable[..., tuple[int, str, str]]


def test_evaluating_a_run_again_gives_its_own_metrics(finished_run: Path, vit_pipeline: Run, tmp_path: Path) -> None:
    folder = tmp_path / "scored"
    code, out, _ = vit_pipeline("evaluate", f"--model={finished_run}", f"--output_dir={folder}")
    assert code == 0
    assert out.startswith("test ")
    assert {path.name for path in folder.iterdir()} == {RESULTS, PREDICTIONS}
    own, again = (read_json(f / RESULTS) for f in (finished_run, folder))
    assert again["test_per_class"] == own["test_per_class"]
    assert again["test_accuracy"] == own["test_accuracy"]
    (_, own_test), _ = read_predictions(finished_run / PREDICTIONS)
    (test,), _ = read_predictions(folder / PREDICTIONS)
    np.testing.assert_allclose(test.logits, own_test.logits, atol=1e-5)
    assert test.ids == own_test.ids


def test_the_held_out_validation_split_is_held_out_again(
    train_flags: list[str], make_folder: Callable[..., Path], vit_pipeline: Run, tmp_path: Path
) -> None:
    flags = [*train_flags, f"--dataset_name={make_folder()}", "--max_steps=1", f"--output_dir={tmp_path}/run"]
    assert vit_pipeline("train", *flags)[0] == 0
    code, out, _ = vit_pipeline("evaluate", f"--model={tmp_path}/run", f"--output_dir={tmp_path}/scored")
    assert code == 0
    assert out.startswith("validation")
    own, again = (read_json(tmp_path / name / RESULTS) for name in ("run", "scored"))
    assert again["eval_accuracy"] == own["eval_accuracy"]
    assert again["eval_samples"] < 12


def test_labels_of_other_images_are_aligned_by_name(finished_run: Path, vit_pipeline: Run, tmp_path: Path) -> None:
    # "green" alone and "red": their numbers in this folder are 0 and 1, in the model 1 and 2.
    for name in ("green", "red"):
        (tmp_path / "other" / name).mkdir(parents=True)
        for i in range(5):
            noisy_image(COLORS[name], 77_000 + i).save(tmp_path / "other" / name / f"{i}.png")
    code, out, _ = vit_pipeline(
        "evaluate", f"--model={finished_run}", f"--dataset_name={tmp_path}/other", f"--output_dir={tmp_path}/scored"
    )
    assert code == 0
    assert "all images" in out
    results = read_json(tmp_path / "scored" / RESULTS)
    assert results["all_accuracy"] == 1.0
    assert results["all_per_class"].keys() == {"green", "red"}


def test_a_model_without_class_names_is_scored_with_a_file_of_names(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path
) -> None:
    model = shutil.copytree(finished_run, tmp_path / "model", ignore=shutil.ignore_patterns("checkpoint-*", "run.json"))
    config = read_json(model / "config.json")
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(3)}
    config["label2id"] = {f"LABEL_{index}": index for index in range(3)}
    write_json(model / "config.json", config)
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{name}\n" for name in COLORS))
    words = [f"--model={model}", f"--class_names={names}"]
    code, _, err = vit_pipeline("evaluate", *words[:1], f"--dataset_name={photos}")
    assert code == 2
    assert "--class_names FILE" in err
    folder = tmp_path / "scored"
    assert vit_pipeline("evaluate", *words, f"--dataset_name={photos}", f"--output_dir={folder}")[0] == 0
    own, again = (read_json(f / RESULTS) for f in (finished_run, folder))
    assert again["test_per_class"] == own["test_per_class"]
    code, out, _ = vit_pipeline("predict", *words, photos / "test" / "red" / "000.png", "--top_k=3")
    assert code == 0
    assert sorted(line.split()[0] for line in out.splitlines()[1:4]) == sorted(COLORS)
    assert out.splitlines()[4].split()[-1] in COLORS  # of the prediction set


def test_a_run_with_renamed_classes_scores_its_own_data(
    train_flags: list[str], make_folder: Callable[..., Path], vit_pipeline: Run, tmp_path: Path
) -> None:
    data = make_folder()
    names = tmp_path / "names.csv"
    names.write_text("red,green\ngreen,red\n")  # a second renaming would undo it
    (data / "green" / "notes.txt").write_text("x")
    words = [f"--dataset_name={data}", f"--class_names={names}", "--min_images_per_class=2", "--max_steps=1"]
    assert vit_pipeline("train", *train_flags, *words, f"--output_dir={tmp_path}/run")[0] == 0
    record = read_json(tmp_path / "run" / RECORD)
    assert record["data"]["source"] == "class folders"
    assert record["data"]["notes"] == [
        f"{data.name}: ignoring 1 files that are not supported images: 1 .txt",
        "names.csv: renaming 2 of 3 classes: 'green' -> 'red', 'red' -> 'green'",
        "names.csv: 1 classes have no entry: 'blue'",
    ]
    card = (tmp_path / "run" / CARD).read_text()
    assert "ignoring 1 files that are not supported images: 1 .txt" in card
    assert str(tmp_path) not in card
    assert vit_pipeline("evaluate", f"--model={tmp_path}/run", f"--output_dir={tmp_path}/scored")[0] == 0
    own, again = (read_json(tmp_path / name / RESULTS) for name in ("run", "scored"))
    assert again["eval_per_class"] == own["eval_per_class"]


def reordered(run: Path, folder: Path, names: list[str]) -> Path:
    """Return a copy of a model with its three classes in another order, and a head that is wrong about some images."""
    model = shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoint-*", "run.json"))
    config = read_json(model / "config.json")
    rows = [config["label2id"][name] for name in names]
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    write_json(model / "config.json", config)
    weights = load_file(model / "model.safetensors")
    noise = torch.randn(weights["classifier.weight"].shape, generator=torch.Generator().manual_seed(0))
    weights["classifier.weight"] = (weights["classifier.weight"] + noise)[rows].contiguous()
    weights["classifier.bias"] = weights["classifier.bias"][rows].contiguous()
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


def test_two_models_are_compared_on_the_same_images(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path
) -> None:
    other = reordered(finished_run, tmp_path / "other", ["red", "blue", "green"])
    words = [f"--model={finished_run}", f"--against={other}", f"--output_dir={tmp_path}/both"]
    code, out, _ = vit_pipeline("evaluate", *words)
    assert code == 0
    alone = evaluate(other, dataset_name=photos, split="test", output_dir=tmp_path / "alone")
    (ours,), names = read_predictions(tmp_path / "both" / PREDICTIONS)
    (theirs,), other_names = read_predictions(tmp_path / "alone" / PREDICTIONS)
    table = [
        (name, names[label], names[mine], other_names[yours])
        for name, label, mine, yours in zip(
            ours.ids, ours.labels, ours.logits.argmax(1), theirs.logits.argmax(1), strict=True
        )
    ]
    only_ours = sum(mine == label != yours for _, label, mine, yours in table)
    only_theirs = sum(yours == label != mine for _, label, mine, yours in table)
    assert only_ours > 0
    results = read_json(tmp_path / "both" / RESULTS)
    assert results["comparison"] == {
        "against": "other",
        "accuracy": ours.accuracy,
        "against_accuracy": alone["test_accuracy"],
        "only_model": only_ours,
        "only_against": only_theirs,
        "p_value": binomtest(only_ours, only_ours + only_theirs).pvalue,
    }
    with (tmp_path / "both" / DISCORDANT).open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "label", "prediction", "against_prediction"]
    assert rows == [list(row) for row in table if (row[1] == row[2]) != (row[1] == row[3])]
    _, difference, test, where = out.splitlines()
    assert f"(only {finished_run} is correct: {only_ours} images; only {other} is correct: {only_theirs})" in difference
    assert test == f"exact McNemar test: p = {results['comparison']['p_value']:.3g}"
    assert where.endswith("both")


def test_a_model_does_not_differ_from_itself(finished_run: Path) -> None:
    metrics = evaluate(finished_run, against=finished_run)
    assert metrics["comparison"]["p_value"] == 1
    assert metrics["comparison"]["only_model"] == metrics["comparison"]["only_against"] == 0


def test_a_second_model_with_other_classes_is_refused(finished_run: Path, tmp_path: Path) -> None:
    other = reordered(finished_run, tmp_path / "other", ["red", "blue", "green"])
    config = read_json(other / "config.json")
    config["id2label"]["1"] = "azure"
    config["label2id"] = {"red": 0, "azure": 1, "green": 2}
    write_json(other / "config.json", config)
    with pytest.raises(
        PipelineError, match=r"--against does not have classes of the images: 'blue' \(its classes: 'red'"
    ):
        evaluate(finished_run, against=other)
