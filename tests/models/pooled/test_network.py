"""The pooled head: what it reads, what is random, and what loads a saved model."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Aimv2Model, AutoModel, DINOv3ViTConfig, DINOv3ViTModel, Tipsv2Model

from pipeline import ImageClassifier, PooledForImageClassification
from pipeline.errors import PipelineError
from tests.models.building import build, logits, new_classifier
from tests.models.families import FAMILIES, save

# Family -> the backbone of a checkpoint, loaded by transformers, and the features of its outputs.
FEATURES: dict[str, tuple[Callable[[Path], Any], Callable[[Any], Tensor]]] = {
    "dinov3": (
        AutoModel.from_pretrained,
        lambda out: torch.cat([out.last_hidden_state[:, 0], out.last_hidden_state[:, 5:].mean(dim=1)], dim=1),
    ),
    "aimv2": (AutoModel.from_pretrained, lambda out: out.pooler_output),
    "aimv2 native": (AutoModel.from_pretrained, lambda out: out.last_hidden_state.mean(dim=1)),
    "aimv2 with text": (lambda folder: Aimv2Model.from_pretrained(folder).vision_model, lambda out: out.pooler_output),
    "radio": (
        AutoModel.from_pretrained,
        lambda out: torch.cat([out.last_hidden_state[:, 0], out.last_hidden_state[:, 1]], dim=1),
    ),
    "tipsv2": (AutoModel.from_pretrained, lambda out: out.last_hidden_state[:, 0]),
    "tipsv2 with text": (
        lambda folder: Tipsv2Model.from_pretrained(folder).vision_model,
        lambda out: out.last_hidden_state[:, 0],
    ),
    "pixio": (AutoModel.from_pretrained, lambda out: out.last_hidden_state[:, :2].mean(dim=1)),
    "clip vision": (AutoModel.from_pretrained, lambda out: out.pooler_output),
}


def pixels(name: str) -> Tensor:
    size = FAMILIES[name].size
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FEATURES)
def test_the_head_reads_the_features_that_the_family_publishes(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    model, (load, features) = build(tmp_path), FEATURES[name]
    assert isinstance(model, PooledForImageClassification)
    backbone = load(tmp_path).eval()
    with torch.no_grad():
        expected = model.classifier(features(backbone(pixel_values=pixels(name))))
    found = logits(model, pixels(name))
    assert torch.allclose(found, expected, atol=1e-6)
    assert found.std(dim=0).min() > 1e-4  # otherwise the logits would not depend on the image


@pytest.mark.parametrize(("name", "start"), [("dinov3", "layer.0."), ("radio", "radio_model.model.blocks.0.attn.qkv")])
def test_checkpoints_have_the_names_of_their_files_on_the_hub(name: str, start: str, tmp_path: Path) -> None:
    save(name, tmp_path)  # so the tests above read such names
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert any(key.startswith(start) for key in file.keys())  # noqa: SIM118


def test_rotary_positions_do_not_change_at_random_in_training(tmp_path: Path) -> None:
    save("dinov3", tmp_path / "checkpoint")
    classifier = new_classifier(tmp_path / "checkpoint")
    model, images = classifier.model, pixels("dinov3")
    expected = logits(model, images)
    with torch.no_grad():
        assert torch.equal(model.train()(pixel_values=images).logits, expected)
        stock = DINOv3ViTModel.from_pretrained(tmp_path / "checkpoint").train()
        assert not torch.equal(stock(images).pooler_output, stock(images).pooler_output)
    (tmp_path / "run").mkdir()
    classifier.save(tmp_path / "run")
    saved = PooledForImageClassification.from_pretrained(tmp_path / "run")
    assert isinstance(saved.config.vision_config, DINOv3ViTConfig)
    assert saved.config.vision_config.pos_embed_rescale is None
    assert torch.equal(logits(saved.train(), images), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_implementation_of_attention_is_that_of_the_backbone(attention: str, tmp_path: Path) -> None:
    save("dinov3", tmp_path)
    model: Any = build(tmp_path)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation(attention)
    output = model(pixel_values=pixels("dinov3"), output_attentions=attention == "eager")
    assert model.backbone.config._attn_implementation == attention
    assert (output.attentions is not None) == (attention == "eager")


SCRIPT = """
import sys
import torch
from transformers import AutoModelForImageClassification, pipeline

folder, image = sys.argv[1:]
try:
    AutoModelForImageClassification.from_pretrained(folder)
except ValueError as error:
    assert "pooled_image_classifier" in str(error)
else:
    sys.exit("loaded without the line")

from pipeline import PooledForImageClassification

model = AutoModelForImageClassification.from_pretrained(folder)
assert type(model) is PooledForImageClassification
classify = pipeline("image-classification", model=folder, device="cpu")
print({answer["label"]: answer["score"] for answer in classify(image, top_k=3)})
"""


def test_one_line_makes_transformers_load_a_saved_model(tmp_path: Path, photos: Path) -> None:
    save("dinov3", tmp_path / "checkpoint")
    classifier = new_classifier(tmp_path / "checkpoint")
    (tmp_path / "run").mkdir()
    classifier.save(tmp_path / "run")
    image = next((photos / "test").rglob("*.png"))
    words = [sys.executable, "-c", SCRIPT, str(tmp_path / "run"), str(image)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = classifier.predict(image, top_k=3)
    found = eval(done.stdout)  # noqa: S307 (a dictionary of our own script)
    assert found == pytest.approx(dict(zip(expected["label"], expected["probability"], strict=True)), abs=1e-5)


def test_radio_is_loaded_without_the_layer_scales_that_its_published_files_lack(tmp_path: Path) -> None:
    save("radio", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {key: tensor for key, tensor in weights.items() if "layer_scale" not in key}
    assert len(kept) == len(weights) - 4
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    state = build(tmp_path).state_dict()
    assert all((state[f"backbone.encoder.layer.{i}.layer_scale{j}.lambda1"] == 1).all() for i in (0, 1) for j in (1, 2))


def test_an_image_processor_that_is_stored_with_a_tokenizer_is_read(tmp_path: Path) -> None:
    save("tipsv2 with text", tmp_path)
    settings = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").unlink()
    joined = {"image_processor": settings, "processor_class": "Tipsv2Processor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(joined))
    classifier = new_classifier(tmp_path)
    assert classifier.input_size == (28, 28)
    assert not classifier.processor.do_normalize


def test_an_unknown_pooling_in_a_saved_config_is_refused(tmp_path: Path) -> None:
    save("dinov3", tmp_path / "checkpoint")
    (tmp_path / "run").mkdir()
    new_classifier(tmp_path / "checkpoint").save(tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    (tmp_path / "run" / "config.json").write_text(json.dumps(config | {"pooling": "median"}))
    with pytest.raises(
        PipelineError, match=r"cannot load .*run as an image classifier: pooling is 'median': use class_"
    ):
        ImageClassifier.load(tmp_path / "run")
