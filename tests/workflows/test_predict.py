import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from transformers import pipeline

from pipeline import load, predict

Run = Callable[..., tuple[int, str, str]]


def test_files_folders_and_globs_make_one_table(finished_run: Path, photos: Path, vit_pipeline: Run) -> None:
    red = photos / "test" / "red"
    code, out, _ = vit_pipeline(
        "predict", f"--model={finished_run}", red / "000.png", red / "00[12].png", photos / "test" / "blue", "--top_k=2"
    )
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == (1 + 2 + 6) * 4
    assert lines[0] == str(red / "000.png")
    assert lines[1].split()[0] == "red"
    assert 50 < float(lines[1].split()[1].rstrip("%")) <= 100
    assert lines[3].startswith("  prediction set: red")


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_the_table_goes_to_a_file_and_agrees_with_transformers(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path, ending: str
) -> None:
    file = tmp_path / f"labels.{ending}"
    code, out, _ = vit_pipeline("predict", f"--model={finished_run}", photos / "test" / "green", f"--output={file}")
    assert code == 0
    assert "6 images, 18 rows" in out
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}
    table = read[ending](file) if ending in read else pd.DataFrame(map(json.loads, file.read_text().splitlines()))
    # The 18 validation images determine the prediction sets, and nothing else.
    assert list(table.columns) == ["image", "rank", "label", "probability", "prediction_set"]
    classify = pipeline("image-classification", model=str(finished_run))
    first = table[table["image"] == table["image"][0]]
    expected = classify(first["image"].iloc[0], top_k=3)
    assert list(first["label"]) == [answer["label"] for answer in expected]
    assert list(first["probability"]) == pytest.approx([answer["score"] for answer in expected], abs=1e-5)


def test_bad_images_are_listed_at_the_end_and_in_a_file(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "page.jpg").write_bytes(b"<html>404</html>")
    good, bad = photos / "test" / "red" / "000.png", [tmp_path / "bad.jpg", tmp_path / "page.jpg"]
    words = ("predict", f"--model={finished_run}", *bad, good)
    code, out, _ = vit_pipeline(*words)
    assert code == 0
    assert out.splitlines()[0] == str(good)
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage().splitlines() == [
        "skipped 2 images that cannot be read:",
        f"  {bad[0]}: not an image but a text file",
        f"  {bad[1]}: not an image but an HTML page, often an error page: download the image again",
    ]
    output, errors = tmp_path / "labels.csv", tmp_path / "errors.csv"
    code, out, _ = vit_pipeline(*words, f"--output={output}", f"--errors={errors}", "--bad_images=skip")
    assert (code, out) == (0, f"1 images, 3 rows: {output}\n")
    assert set(pd.read_csv(output)["image"]) == {str(good)}
    table = pd.read_csv(errors)
    assert table["image"].tolist() == [str(path) for path in bad]
    assert table["reason"].tolist()[0] == "not an image but a text file"


def test_fail_stops_at_the_first_bad_image_and_keeps_what_was_written(
    finished_run: Path, photos: Path, vit_pipeline: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    output = tmp_path / "labels.csv"
    output.write_text("of an earlier command")
    good = [photos / "test" / "red" / "000.png"] * 32  # one batch
    words = ("predict", f"--model={finished_run}", *good, tmp_path / "bad.jpg", f"--output={output}")
    code, _, err = vit_pipeline(*words, "--bad_images=fail")
    assert code == 2
    assert "bad.jpg: not an image but a text file\nfix or remove the image" in err
    assert output.read_text() == "of an earlier command"
    assert len(pd.read_csv(tmp_path / "labels.csv.partial.csv")) == 32 * 3
    assert "labels.csv.partial.csv" in caplog.text


def test_files_that_cannot_be_written_are_reported_before_the_model_is_loaded(
    photos: Path, vit_pipeline: Run, tmp_path: Path
) -> None:
    for name in ("labels.csv", "errors.csv"):
        (tmp_path / name).mkdir()
    words = ("predict", f"--model={tmp_path / 'no model'}", photos)
    for flag, file in {"--output": "labels.csv", "--errors": "errors.csv"}.items():
        code, _, err = vit_pipeline(*words, flag, tmp_path / file)
        assert code == 2
        assert f"{flag} {tmp_path / file} is a folder: add the name of a file\n" in err
    code, _, err = vit_pipeline(*words, f"--output={tmp_path / 'a.csv'}")
    assert code == 2
    assert "no model" in err
    assert not list(tmp_path.glob("a.csv*"))


def test_errors_of_another_kind_or_in_the_output_are_rejected(photos: Path, vit_pipeline: Run, tmp_path: Path) -> None:
    code, _, err = vit_pipeline("predict", "--model=x", photos, f"--errors={tmp_path / 'no' / 'a.txt'}")
    assert code == 2
    assert "a.txt has an unknown extension: use .csv, .jsonl" in err
    assert f"is in a folder that does not exist: create {tmp_path / 'no'}" in err
    code, _, err = vit_pipeline("predict", "--model=x", photos, "--errors=a.csv", "--output=./a.csv")
    assert code == 2
    assert "--errors a.csv is also the --output: choose two files" in err


def test_what_was_predicted_before_a_kill_is_on_disk(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    image = str(photos / "test" / "red" / "000.png")
    output = tmp_path / "labels.parquet"
    partial = tmp_path / "labels.parquet.partial.csv"
    call = f"predict({str(finished_run)!r}, [{image!r}] * 20_000, output={str(output)!r})"
    with subprocess.Popen(
        [sys.executable, "-c", f"from pipeline import predict; {call}"], cwd=Path(__file__).parents[2]
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (partial.exists() and partial.stat().st_size > 20_000):
            time.sleep(0.05)
        process.kill()
    assert list(tmp_path.iterdir()) == [partial]
    text = partial.read_text()
    assert text.endswith("\n")
    table = pd.read_csv(partial)
    assert 100 < len(table) < 60_000
    assert len(table) % (32 * 3) == 0
    assert not table.isna().any().any()


def test_the_python_function_returns_the_table_that_it_writes(finished_run: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "labels.parquet"
    table = predict(finished_run, photos / "test", output=output)
    assert len(table) == 18 * 3
    pd.testing.assert_frame_equal(pd.read_parquet(output), table, check_dtype=False)
    pd.testing.assert_frame_equal(load(finished_run).predict(photos / "test"), table, atol=1e-6)
