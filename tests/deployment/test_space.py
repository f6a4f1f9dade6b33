"""`push --space`: the files of a Space, which answer as the run does, without torch and without our packages."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("gradio")
pytest.importorskip("onnxscript")

from pipeline import export
from pipeline.deployment import space
from pipeline.errors import PipelineError
from tests.workflows.test_app import ask, free_port, upload

# Runs a file as `python app.py` does, where the packages that a Space lacks cannot be imported.
RUN = """
import runpy, sys
for name in ("pipeline", "torch", "transformers", "datasets"):
    sys.modules[name] = None
sys.path[0] = sys.argv[1]
runpy.run_path(f"{sys.argv[1]}/app.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def exported_run(finished_run: Path) -> Path:
    if not (finished_run / "onnx").exists():
        export(finished_run)
    return finished_run


def test_the_written_files_answer_as_the_run_does(exported_run: Path, photos: Path, tmp_path: Path) -> None:
    contents = space.space_contents(exported_run, "me/colors")
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content.read_bytes() if isinstance(content, Path) else content)
    port = free_port()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    environment.pop("PYTHONPATH", None)
    words = [sys.executable, "-u", "-c", RUN, str(tmp_path)]
    with subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any(f"127.0.0.1:{port}" in line for line in process.stdout)
            image = sorted((photos / "test").rglob("*.png"))[7]
            (answer,) = ask(f"http://127.0.0.1:{port}/", "predict", upload(f"http://127.0.0.1:{port}/", image))
        finally:
            process.terminate()
    from pipeline import predict

    table = predict(exported_run, image)
    assert f'<th scope="row">{table["label"][0]}</th>' in answer
    assert f"<strong>{', '.join(table['prediction_set'][0])}</strong>" in answer


def test_the_files_are_complete_and_pinned(exported_run: Path) -> None:
    contents = space.space_contents(exported_run, "me/colors")
    images = {name for name in contents if name.startswith("examples/")}
    names = {"app.py", "predict.py", "requirements.txt", "README.md", "page.json", "model-fp32.onnx"}
    assert set(contents) == names | images
    settings = json.loads(bytes(contents["page.json"]))
    assert settings["title"] == "colors"
    assert {path for path, _ in settings["examples"]} == images
    assert [label for _, label in settings["examples"]] == ["blue", "green", "red"]
    front = yaml.safe_load(contents["README.md"].split(b"---")[1])  # type: ignore[union-attr]
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["me/colors"])
    assert f"gradio=={front['sdk_version']}\n" in space.requirements()


def test_pillow_stays_below_13(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"gradio": "6.31.0", "numpy": "2.5.1", "onnxruntime": "1.32.0", "pillow": "13.0.0"}
    monkeypatch.setattr("importlib.metadata.version", versions.__getitem__)
    assert space.requirements().splitlines() == [
        "gradio==6.31.0", "numpy==2.5.1", "onnxruntime==1.32.0", "pillow>=12,<13",
    ]  # fmt: skip


def test_a_run_without_an_exported_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"has no exported model.*: run `export --model .*` first"):
        space.space_contents(tmp_path, "me/colors")


def test_a_dry_run_lists_the_files_of_the_space(exported_run: Path, vit_pipeline: Callable[..., Any]) -> None:
    words = ["push", "--model", exported_run, "--hub_model_id=me/colors", "--space"]
    code, out, _ = vit_pipeline(*words, "--dry_run")
    assert code == 0
    _, listed = out.split("to the Space me/colors:\n")
    assert {line.split()[-1] for line in listed.splitlines()} == set(space.space_contents(exported_run, "me/colors"))
    code, _, err = vit_pipeline(*words, "--create_pr")
    assert code == 2
    assert "which --create_pr does not push to: remove --create_pr" in err
