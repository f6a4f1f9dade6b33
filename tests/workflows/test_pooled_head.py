"""Every verb with backbones for which transformers has no image classifier."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModel

from pipeline import Run, evaluate, explain, export, load, race, train
from pipeline.racing.entry import PROBE
from tests.conftest import COLORS
from tests.models import families
from tests.models.building import build, logits

Execute = Callable[..., tuple[int, str, str]]
Checkpoint = Callable[[str], Path]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return a function that saves a small backbone of a family."""
    root = tmp_path_factory.mktemp("checkpoints")

    def save(name: str) -> Path:
        if not (root / name).exists():
            families.save(name, root / name)
        return root / name

    return save


@pytest.fixture(scope="module", params=["dinov3", "radio"])
def probed(
    request: pytest.FixtureRequest, checkpoint: Checkpoint, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run with `--strategy head`."""
    return train(
        model_name_or_path=checkpoint(request.param), dataset_name=photos, strategy="head", precision="fp32",
        dataloader_num_workers=0, output_dir=tmp_path_factory.mktemp("runs") / request.param,
    )  # fmt: skip


def test_a_probe_keeps_the_backbone_and_its_scores_are_those_of_the_saved_files(
    probed: Run, checkpoint: Checkpoint, photos: Path, tmp_path: Path
) -> None:
    name = probed.folder.name
    model = load(probed.folder).model
    backbone = AutoModel.from_pretrained(checkpoint(name)).state_dict()
    saved = {key.removeprefix("backbone."): tensor.cpu() for key, tensor in model.state_dict().items()}
    assert saved.keys() - backbone.keys() == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(saved[key], backbone[key]) for key in backbone)
    assert probed.metrics["test_accuracy"] > 0.9
    metrics = evaluate(probed.folder, dataset_name=photos, split="test", output_dir=tmp_path / "scores")
    assert metrics["test_accuracy"] == probed.metrics["test_accuracy"]


def test_the_example_of_the_card_works_and_names_what_loads_the_model(probed: Run, photos: Path) -> None:
    card = ModelCard.load(probed.folder / "README.md")
    family = {"dinov3": "dinov3_vit", "radio": "radio"}[probed.folder.name]
    assert f"transformers has no image classifier for {family}" in card.text
    assert f"{family} as a linear probe on" in card.text
    assert card.data.to_dict()["library_name"] == "vit-pipeline"
    code = card.text.split("## Use")[1].split("```python\n")[1].split("```")[0]
    image = next((photos / "test").rglob("*.png"))
    script = code.replace("photo.jpg", str(image))
    assert script != code
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=probed.folder.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert load(probed.folder).predict(image)["label"][0] in done.stdout


def test_the_exported_files_agree(probed: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    parity = export(probed.folder, output=tmp_path / "onnx", precision=["fp32"])
    for size in ("batch_1", "batch_32"):
        assert parity["files"]["fp32"][size]["same"] == 1.0
        assert parity["files"]["fp32"][size]["logit_difference"] < 1e-3


def test_the_network_is_explained(probed: Run, photos: Path, tmp_path: Path) -> None:
    explain(probed.folder, photos / "test" / "red", output=tmp_path / "maps", random_maps=0, arrays=True)
    (first, *_) = sorted((tmp_path / "maps").glob("*.npz"))
    with np.load(first) as arrays:
        assert arrays["relevance"].shape[1:] == {"dinov3": (4, 4), "radio": (2, 2)}[probed.folder.name]
        assert arrays["relevance"].max() > 0
        assert "attention" in arrays  # of the class token


@pytest.mark.parametrize("flags", [{}, {"strategy": "lora"}, {"image_size": 64, "layer_decay": 0.7}])
def test_a_run_is_fine_tuned_reloaded_and_trained_further(
    flags: dict[str, Any], checkpoint: Checkpoint, photos: Path, tmp_path: Path
) -> None:
    run = train(
        model_name_or_path=checkpoint("dinov3"), dataset_name=photos, max_steps=2, per_device_train_batch_size=4,
        learning_rate=1e-3, precision="fp32", dataloader_num_workers=0, output_dir=tmp_path / "run", **flags,
    )  # fmt: skip
    model = load(run.folder).model
    config = json.loads((run.folder / "config.json").read_text())
    assert config["vision_config"]["pos_embed_rescale"] is None
    start = build(run.folder, list(COLORS))  # as a training that starts from the run
    images = torch.rand(3, 3, *load(run.folder).input_size)
    assert torch.equal(logits(start, images), logits(model.cpu(), images))


def test_dinov3_is_a_row_of_a_race_and_a_finalist(checkpoint: Checkpoint, photos: Path, tmp_path: Path) -> None:
    found = race(
        dataset_name=photos, precision="fp32", dataloader_num_workers=0, num_train_epochs=1, report="no",
        per_device_train_batch_size=6, backbones=[checkpoint("dinov3")], finalists=1, output_dir=tmp_path / "race",
    )  # fmt: skip
    rows = {row["strategy"]: row for row in found["rows"]}
    assert {PROBE, "full"} <= rows.keys()
    assert not any(row["error"] for row in found["rows"])
    assert rows[PROBE]["gflops"] > 0
    assert rows[PROBE]["train_images_per_second"] > 0


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--patch_drop_rate=0.5", "--patch_drop_rate does not support dinov3_vit, which needs all patches"),
        ("--image_size=36", "--image_size 36 is not a multiple of the patch size 8: use 32 or 40"),
    ],
)
def test_what_a_backbone_does_not_support_is_refused_by_its_name(
    flag: str, message: str, checkpoint: Checkpoint, photos: Path, vit_pipeline: Execute, tmp_path: Path
) -> None:
    words = (f"--model_name_or_path={checkpoint('dinov3')}", f"--dataset_name={photos}", "--max_steps=2", flag)
    code, _, err = vit_pipeline("train", *words, f"--output_dir={tmp_path / 'run'}")
    assert code == 2
    assert message in err
