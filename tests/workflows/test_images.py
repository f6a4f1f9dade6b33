"""12-bit images, HEIC files and unreadable images through train, evaluate and predict."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pytest

from pipeline import cli, load
from pipeline.runs.files import read_json
from tests.conftest import COLORS, noisy_image

Run = Callable[..., tuple[int, str, str]]


def write_scans(root: Path, *, per_class: int, largest: int = 1029, start: int = 0) -> Path:
    """Write 16-bit TIFFs in which a lesion is a brighter disc, with values up to `largest`, as CT slices have."""
    rows, columns = np.mgrid[:32, :32]
    for label in (0, 1):
        folder = root / ("normal", "lesion")[label]
        folder.mkdir(parents=True)
        for number in range(start, start + per_class):
            rng = np.random.default_rng([label, number])
            x, y = rng.integers(10, 22, 2)
            values = 600 + rng.integers(-20, 20, (32, 32)) + label * 300 * ((columns - x) ** 2 + (rows - y) ** 2 < 64)
            values[0, 0] = 1029
            scaled = values * largest // 1029
            PIL.Image.fromarray(scaled.astype(np.uint16)).save(folder / f"{number}.tif")
    return root


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scans(tmp_path_factory.mktemp("scans"), per_class=20)


@pytest.fixture(scope="module")
def scans_run(scans: Path, tiny_vit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "scans"
    words = [f"--model_name_or_path={tiny_vit}", f"--dataset_name={scans}", f"--output_dir={folder}"]
    assert cli.main(["train", *words, "--strategy=head", "--validation_fraction=0.3", "--precision=fp32"]) == 0
    return folder


def test_12_bit_images_are_learned_and_their_depth_is_saved(scans_run: Path) -> None:
    assert read_json(scans_run / "all_results.json")["eval_accuracy"] > 0.9
    assert read_json(scans_run / "preprocessor_config.json")["grayscale_bits"] == 11


def test_evaluate_scales_other_data_by_the_depth_of_the_run(
    scans_run: Path, vit_pipeline: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    same = write_scans(tmp_path / "same", per_class=10, start=100)
    for folder, warning in {same: "", write_scans(tmp_path / "bright", per_class=2, largest=60000): "clipping"}.items():
        caplog.clear()
        output = tmp_path / f"scores of {folder.name}"
        words = ("evaluate", f"--model={scans_run}", f"--dataset_name={folder}", "--split=all")
        assert vit_pipeline(*words, f"--output_dir={output}")[0] == 0
        assert warning in caplog.text
        assert "dark" not in caplog.text
    assert read_json(tmp_path / "scores of same" / "all_results.json")["all_accuracy"] > 0.9


def test_a_model_without_a_depth_warns_about_dark_images(
    scans_run: Path, scans: Path, vit_pipeline: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("predict", scans / "lesion", "--top_k=1")
    assert vit_pipeline(*words, f"--model={scans_run}")[1].count("lesion ") > 18
    assert not caplog.records
    old = shutil.copytree(scans_run, tmp_path / "old")
    config = read_json(old / "preprocessor_config.json")
    del config["grayscale_bits"]
    (old / "preprocessor_config.json").write_text(json.dumps(config))
    assert vit_pipeline(*words, f"--model={old}")[0] == 0
    assert vit_pipeline("evaluate", f"--model={old}", f"--dataset_name={scans}")[0] == 0
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(texts) == 2
    assert all(text.startswith("dark: a 16-bit grayscale image uses values up to 1029 of 65535") for text in texts)


def test_images_in_memory_are_scaled_like_files(scans_run: Path, scans: Path) -> None:
    path = scans / "lesion" / "0.tif"
    classifier = load(scans_run)
    with PIL.Image.open(path) as image:
        in_memory = classifier.predict([image, np.asarray(image)])
    expected = classifier.predict(path)["probability"].tolist()
    assert in_memory["probability"].tolist() == pytest.approx(expected * 2)


def test_train_and_evaluate_end_with_the_list_of_skipped_images(
    tiny_vit: Path, vit_pipeline: Run, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    for split, count in {"train": 4, "validation": 2}.items():
        for name, color in COLORS.items():
            (photos / split / name).mkdir(parents=True)
            for number in range(count):
                noisy_image(color, number).save(photos / split / name / f"{number}.png")
    (photos / "train" / "red" / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    (photos / "validation" / "blue" / "scan.png").write_bytes(b"%PDF-1.4")
    flags = [f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", f"--output_dir={tmp_path / 'run'}"]
    flags += ["--strategy=head", "--precision=fp32"]
    code, _, err = vit_pipeline("train", *flags)
    assert code == 2
    assert "red/photo.heic: HEIC" in err
    assert "blue/scan.png: not an image but a PDF" in err
    code, out, _ = vit_pipeline("train", *flags, "--bad_images=skip")
    assert code == 0
    title, first, second = out.splitlines()[-3:]
    assert title == "skipped 2 images that cannot be read:"
    assert first.startswith("  train: train/red/photo.heic: HEIC")
    assert second == "  validation: validation/blue/scan.png: not an image but a PDF document"
    skipped = read_json(tmp_path / "run" / "run.json")["data"]["skipped"]
    assert [entry["split"] for entry in skipped] == ["train", "validation"]
    assert skipped[1]["image"] == "validation/blue/scan.png"
    assert str(tmp_path) not in json.dumps(skipped)
    code, out, _ = vit_pipeline("evaluate", f"--model={tmp_path / 'run'}")
    assert code == 0
    assert out.splitlines()[-1] == f"  validation: {photos}/validation/blue/scan.png: not an image but a PDF document"


def test_heic_files_in_class_folders_are_read_with_the_optional_package(
    finished_run: Path, vit_pipeline: Run, tmp_path: Path
) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    for name, color in COLORS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        noisy_image(color, 0, (64, 64)).save(tmp_path / "photos" / name / "IMG.HEIC", "HEIF")
    words = ("evaluate", f"--model={finished_run}", f"--dataset_name={tmp_path / 'photos'}")
    code, _, err = vit_pipeline(*words, "--split=all", f"--output_dir={tmp_path / 'scores'}")
    assert code == 0, err
    assert read_json(tmp_path / "scores" / "all_results.json")["all_samples"] == 3
    code, _, _ = vit_pipeline(
        "predict", f"--model={finished_run}", tmp_path / "photos", f"--output={tmp_path / 'a.csv'}"
    )
    assert code == 0
    best = pd.read_csv(tmp_path / "a.csv").query("rank == 1")
    assert best["label"].tolist() == sorted(COLORS)
