from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.evaluation.predictions import read_predictions
from pipeline.runs.files import read_json
from pipeline.runs.folder import PREDICTIONS, RESULTS
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
