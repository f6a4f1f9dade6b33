"""Sizes in the model files of strangers are checked before anything of that size is made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.model_files import config_problems
from pipeline.config.names import ASSETS
from tests.conftest import noisy_image
from tests.models.families import FAMILIES, save

Run = Callable[..., tuple[int, str, str]]
CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
HOSTILE: list[tuple[str, dict[str, Any]]] = [
    (CONFIG, {"hidden_size": 10**7}),
    (CONFIG, {"hidden_size": "x"}),
    (CONFIG, {"patch_size": 0}),
    (CONFIG, {"patch_size": [4, -4]}),
    (CONFIG, {"num_hidden_layers": 10**6}),
    (CONFIG, {"image_size": 10**6}),
    (CONFIG, {"num_channels": 1.5}),
    (CONFIG, {"layer_norm_eps": float("nan")}),
    (CONFIG, {"id2label": {}}),
    (CONFIG, {"id2label": ["a"]}),
    (CONFIG, {"model_type": 7}),
    (PROCESSOR, {"resample": 99}),
    (PROCESSOR, {"image_mean": "x"}),
    (PROCESSOR, {"image_std": [0, 0, 0]}),
    (PROCESSOR, {"size": {"height": 10**6, "width": 10**6}}),
    (PROCESSOR, {"rescale_factor": 0}),
    (PROCESSOR, {"do_resize": "maybe"}),
]


def change(folder: Path, file: str, changes: dict[str, Any]) -> None:
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | changes))


@pytest.mark.parametrize(("file", "changes"), HOSTILE, ids=str)
def test_a_hostile_value_is_one_line_with_file_and_key(
    file: str, changes: dict[str, Any], tiny_vit: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_vit, tmp_path / "model")
    change(tmp_path / "model", file, changes)
    (problem,) = config_problems(tmp_path / "model", "evil")
    assert problem.startswith(f"{file} of evil: {next(iter(changes))} is ")


@pytest.mark.parametrize("content", ["", "[1]", '{"a": ', "[" * 100_000])
def test_a_file_that_is_not_a_json_object(content: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(content)
    (problem,) = config_problems(tmp_path, "evil")
    assert problem.startswith("config.json of evil is not ")


@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("timm")])
def test_the_files_of_every_family_are_accepted(family: str, tmp_path: Path) -> None:
    save(family, tmp_path)
    assert list(config_problems(tmp_path, family)) == []


def test_the_shipped_models_are_accepted() -> None:
    for folder in (file.parent for file in ASSETS.glob("*/config.json")):
        assert list(config_problems(folder, folder.name)) == []


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        (CONFIG, {"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000: use integers from 1 to 1000"),
        (CONFIG, {"num_attention_heads": 5}, "lacks 14 weights"),
        (CONFIG, {"hidden_act": "x"}, "cannot be built (KeyError: "),
        (CONFIG, {"hidden_act": 7}, "as an image classifier: Validation error for field 'hidden_act'"),
        (CONFIG, {"hidden_size": 20_000, "num_attention_heads": 1}, "weights, and its files have "),
        (PROCESSOR, {"resample": 99}, "resample is 99: use 0 to 5, for example 2 (bilinear)"),
        (PROCESSOR, {"size": {"height": 20, "width": 20}}, "does not support the 20x20 images"),
        (PROCESSOR, {"image_mean": None}, "cannot be applied to an image (`image_mean` and `image_std` must both"),
    ],
)  # fmt: skip
def test_every_verb_refuses_a_hostile_model(
    file: str,
    changes: dict[str, Any],
    expected: str,
    tiny_vit: Path,
    photos: Path,
    vit_pipeline: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_vit, "model")
    change(Path("model"), file, changes)
    noisy_image((200, 0, 0), 1).save("a.png")
    for words in (
        ("predict", "--model=model", "a.png"),
        ("evaluate", "--model=model", f"--dataset_name={photos}"),
        ("train", "--model_name_or_path=model", f"--dataset_name={photos}", "--output_dir=run"),
    ):
        code, _, err = vit_pipeline(*words)
        assert code == 2
        error = err[err.index("error: ") :]
        assert len(error.splitlines()) == 1
        assert expected in error or (words[0] == "train" and "image_mean" in changes), error
