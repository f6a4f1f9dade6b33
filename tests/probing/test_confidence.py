"""`train` stores what validation says about confidence, and every number can be remade from the files of the run."""

import logging
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers.modeling_outputs import ImageClassifierOutput

from pipeline import load
from pipeline.arguments.data import DataArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.data.sources import load_splits
from pipeline.errors import PipelineError
from pipeline.evaluation import scoring
from pipeline.evaluation.predictions import read_predictions
from pipeline.models.classifier import ImageClassifier
from pipeline.models.inference import LoaderOptions
from pipeline.models.uncertainty import Uncertainty
from pipeline.probing.confidence import score_validation
from pipeline.probing.features import extract
from pipeline.runs.files import read_json
from pipeline.runs.folder import CARD, PREDICTIONS, RECORD, REPORT, RESULTS, UNCERTAINTY, RunFolder
from tests.conftest import noisy_image

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def run(make_folder: Callable[..., Path], probe_flags: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear probe with enough validation images for an out-of-distribution score."""
    from pipeline import cli

    photos = make_folder(train=12, validation=20, test=6)
    flags = [flag for flag in probe_flags if not flag.startswith("--dataset_name")]
    folder = tmp_path_factory.mktemp("runs") / "sure"
    words = ["train", *flags, f"--dataset_name={photos}", f"--output_dir={folder}", "--coverage=0.8"]
    assert cli.main([*words, "--abstain_precision=0.6"]) == 0
    return folder


def test_every_metric_can_be_recomputed_from_the_files(run: Path) -> None:
    predictions, names = read_predictions(run / PREDICTIONS)
    stored = Uncertainty.read(run, name="run", classes=3)
    assert stored is not None
    assert (stored.coverage, stored.abstain_precision, stored.images) == (0.8, 0.6, 60)
    results = read_json(run / RESULTS)
    recomputed = scoring.all_metrics(predictions, names, stored)
    assert recomputed == {key: results[key] for key in recomputed}
    assert {
        f"{p}_{key}" for p in ("eval", "test") for key in ("aps_coverage", "lac_set_size", "unknown")
    } <= results.keys()
    assert results["eval_aps_coverage"] >= 0.8
    assert results["eval_unknown"] <= 0.05
    assert read_json(run / RECORD)["timings"]["uncertainty"] > 0
    assert "The prediction sets (APS) contain the true class for" in (run / CARD).read_text()
    page = (run / REPORT).read_text()
    assert "Prediction sets" in page
    assert "Unknown images" in page


def test_the_scores_of_the_file_are_those_of_the_loaded_model(run: Path) -> None:
    (validation, test), _ = read_predictions(run / PREDICTIONS)
    classifier = ImageClassifier.load(run)
    assert classifier.uncertainty is not None
    assert classifier.uncertainty.ood is not None
    assert validation.ood_scores is not None
    assert test.ood_scores is not None
    assert len(test.ood_scores) == 18
    ranked = np.sort(validation.ood_scores)
    assert classifier.uncertainty.ood.threshold == pytest.approx(ranked[int(np.ceil(61 * 0.95)) - 1], rel=1e-4)


def test_validation_is_scored_from_the_features_that_the_same_network_has_cached(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = DataArguments(dataset_name=RunFolder(run).arguments["dataset_name"])
    settings = Settings(data=data, trainer=FineTuningArguments(output_dir=str(tmp_path), disable_tqdm=True))
    splits, classifier = load_splits(data), ImageClassifier.load(run)
    classifier.save(tmp_path)
    images = 0

    def count(_: object, __: object, output: ImageClassifierOutput) -> None:
        nonlocal images
        assert output.logits is not None
        images += len(output.logits)

    classifier.model.register_forward_hook(count)
    extract(classifier, {"validation": splits["validation"]}, LoaderOptions(), precision="fp32")
    assert images == 60
    images = 0
    cached = score_validation(classifier, splits, settings, run=RunFolder(tmp_path))
    assert images == 1 + 36  # one that tries the head, and those of train
    assert cached.properties is not None
    with torch.no_grad():
        weight = next(each for name, each in classifier.model.named_parameters() if "patch_embeddings" in name)
        weight.mul_(2)
    images = 0
    computed = score_validation(classifier, splits, settings, run=RunFolder(tmp_path))
    assert images == 1 + 60 + 36
    assert not np.allclose(cached.logits, computed.logits)
    with torch.no_grad():
        weight.div_(2)
    classifier.uncertainty = None
    scored = scoring.score(classifier, splits["validation"], LoaderOptions(), name="validation")
    assert np.allclose(cached.logits, scored.logits, atol=1e-5)
    assert scored.properties is not None
    assert np.array_equal(cached.properties.brightness, scored.properties.brightness)


@pytest.mark.parametrize("flags", [["--refit_head"], ["--strategy=head", "--precision=bf16"]])
def test_what_a_probe_has_computed_is_not_computed_again(
    flags: list[str],
    make_folder: Callable[..., Path],
    train_flags: list[str],
    probe_flags: list[str],
    vit_pipeline: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    common = train_flags if flags == ["--refit_head"] else probe_flags
    words = [*(flag for flag in common if not flag.startswith(("--dataset_name", "--precision=fp32"))), *flags]
    words.append(f"--dataset_name={make_folder(train=6, validation=20)}")
    assert vit_pipeline("train", *words, f"--output_dir={tmp_path / 'run'}")[0] == 0
    assert "validation: read the features of 60 images from the cache" in caplog.text
    assert "train: read the features of 18 images from the cache" in caplog.text


def test_an_image_of_another_kind_is_unknown(run: Path) -> None:
    rng = np.random.default_rng(0)
    stripes = np.repeat(rng.integers(0, 2, (24, 1, 1), dtype=np.uint8) * 255, 24, axis=1).repeat(3, axis=2)
    table = load(run).predict([np.asarray(noisy_image((255, 255, 0), 3)), stripes], top_k=1)
    assert table["unknown"].any()


def test_evaluate_measures_it_on_other_images(run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path) -> None:
    words = (
        "evaluate",
        f"--model={run}",
        f"--dataset_name={photos}",
        "--split=test",
        f"--output_dir={tmp_path / 'out'}",
    )
    assert vit_pipeline(*words)[0] == 0
    results = read_json(tmp_path / "out" / RESULTS)
    assert {"test_aps_coverage", "test_unknown"} <= results.keys()
    (scored,), _ = read_predictions(tmp_path / "out" / PREDICTIONS)
    assert scored.ood_scores is not None


def test_no_stores_nothing(probe_flags: list[str], vit_pipeline: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert vit_pipeline("train", *probe_flags, "--uncertainty=no", f"--output_dir={folder}")[0] == 0
    assert not (folder / UNCERTAINTY).exists()
    assert ImageClassifier.load(folder).uncertainty is None
    assert "## Confidence" not in (folder / CARD).read_text()
    assert not [key for key in read_json(folder / RESULTS) if "coverage" in key or "calibrated" in key]
    assert "uncertainty" not in read_json(folder / RECORD)["timings"]


def test_a_network_that_changes_the_logits_of_its_head_gets_no_score(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline")
    data = DataArguments(dataset_name=RunFolder(run).arguments["dataset_name"])
    settings = Settings(data=data, trainer=FineTuningArguments(output_dir=str(tmp_path), disable_tqdm=True))
    classifier = ImageClassifier.load(run)
    classifier.save(tmp_path)
    classifier.model.register_forward_hook(lambda _, __, output: ImageClassifierOutput(logits=2 * output.logits))
    with pytest.raises(PipelineError, match="its head does not turn one vector per image into the logits"):
        classifier.logits_and_features(torch.zeros(1, 3, 16, 16))
    score_validation(classifier, load_splits(data), settings, run=RunFolder(tmp_path))
    assert "no out-of-distribution score is stored: its head does not turn one vector per image into" in caplog.text
    stored = ImageClassifier.load(tmp_path).uncertainty
    assert stored is not None
    assert stored.ood is None
