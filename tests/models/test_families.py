"""Every backbone family: new head, transforms, a run that transformers loads with equal results, another resolution."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from pipeline import cli
from pipeline.arguments.images import ImageArguments
from pipeline.errors import PipelineError
from pipeline.images.decode import open_image
from pipeline.images.processor import input_size
from pipeline.images.transforms import Batch, EvalTransform, TrainTransform
from pipeline.models.checkpoint import load_strictly
from pipeline.models.classifier import ImageClassifier
from pipeline.models.head import head_names
from pipeline.runs.checkpoints import newest_complete_checkpoint
from tests.conftest import COLORS, noisy_image
from tests.models.building import build, new_classifier
from tests.models.families import FAMILIES, save

Checkpoint = tuple[str, Path, dict[str, Tensor]]

# One run, of one or two seconds, for each kind of network.
RUNS = [
    "vit b/16 in21k", "deit distilled", "swin", "beit pt22k", "dinov2", "siglip", "resnet", "convnext", "dinov3",
    "aimv2", "radio", "tipsv2 with text", "dinov3 convnext", "timm vit", "timm resnet",
]  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Return the name, the checkpoint folder and the weights of one family."""
    folder = tmp_path_factory.mktemp("family")
    return request.param, folder, save(request.param, folder)


@pytest.fixture(scope="module", params=RUNS)
def finished(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of two training steps. The `checkpoint` folder next to it is the pre-trained checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = folder.parent / "checkpoint"
    save(request.param, model)
    command = [
        "train", f"--model_name_or_path={model}", f"--dataset_name={photos}", f"--output_dir={folder}",
        "--max_steps=2", "--per_device_train_batch_size=4", "--learning_rate=1e-3", "--precision=fp32",
        "--dataloader_num_workers=0",
    ]  # fmt: skip
    assert cli.main(command) == 0
    return folder


# Names in a ConvNeXt classifier -> names in the backbone of DINOv3.
DINOV3_CONVNEXT = {
    "convnext.embeddings.patch_embeddings.": "model.stages.0.downsample_layers.0.",
    "convnext.embeddings.layernorm.": "model.stages.0.downsample_layers.1.",
    "convnext.encoder.": "model.",
    "convnext.layernorm.": "layer_norm.",
    "downsampling_layer": "downsample_layers",
    "dwconv": "depthwise_conv",
    "layernorm": "layer_norm",
    "pwconv": "pointwise_conv",
    "layer_scale_parameter": "gamma",
}


def weights_of(weights: dict[str, Tensor], name: str) -> Tensor:
    """Return a weight of a checkpoint by its name in a classifier. Names in a bare backbone lack the first part."""
    bare = name.partition(".")[2]
    found = next((key for key in (name, bare, f"vision_model.{bare}") if key in weights), None)
    if found is None:
        found = functools.reduce(lambda key, pair: key.replace(*pair), DINOV3_CONVNEXT.items(), name)
    return weights[found]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Return the paths of an RGB, a gray and a CMYK image that are not square."""
    image = noisy_image((120, 60, 90), 1, size=(60, 44))
    for mode in ("RGB", "L", "CMYK"):
        image.convert(mode).save(tmp_path / f"{mode}.jpg")
    return [tmp_path / f"{mode}.jpg" for mode in ("RGB", "L", "CMYK")]


def test_the_head_is_new_and_every_other_weight_comes_from_the_checkpoint(checkpoint: Checkpoint) -> None:
    name, folder, weights = checkpoint
    model = build(folder)
    head = head_names(model)
    assert 1 <= len(head) <= 2
    assert {model.get_parameter(key).shape[0] for key in head} == {3}
    loaded = model.state_dict().keys() - head - FAMILIES[name].new_weights
    for key in loaded:
        assert torch.equal(model.state_dict()[key], weights_of(weights, key)), key
    assert loaded


def test_a_zero_head_gives_zero_logits_and_the_backbone_comes_from_the_checkpoint(checkpoint: Checkpoint) -> None:
    name, folder, weights = checkpoint
    model = build(folder, head_init="zero")
    size = FAMILIES[name].size
    assert model(pixel_values=torch.randn(2, 3, size, size)).logits.abs().max() == 0
    for key in model.state_dict().keys() - head_names(model) - FAMILIES[name].new_weights:
        assert torch.equal(model.state_dict()[key], weights_of(weights, key)), key


def test_from_scratch_initializes_every_weight_at_random(checkpoint: Checkpoint) -> None:
    name, folder, weights = checkpoint
    model = build(folder, from_scratch=True)
    new = head_names(model) | FAMILIES[name].new_weights
    for key, weight in model.named_parameters():
        if key not in new:
            assert not torch.equal(weight, weights_of(weights, key)), key
        assert weight.isfinite().all(), key


def test_evaluation_images_equal_those_of_the_processor_and_training_images_have_the_same_size(
    checkpoint: Checkpoint, images: list[Path]
) -> None:
    name, folder, _ = checkpoint
    size = FAMILIES[name].size
    processor = new_classifier(folder).processor
    rows: Batch = {
        "image": [{"bytes": None, "path": str(path)} for path in images],
        "label": [0] * 3,
        "index": list(range(3)),
    }
    evaluation = EvalTransform(processor)(rows)
    training = TrainTransform(processor, ImageArguments(), seed=0)(rows)
    stock = AutoImageProcessor.from_pretrained(folder, backend="torchvision")
    for path, pixels in zip(images, evaluation["pixel_values"], strict=True):
        image = PIL.Image.open(path).convert("RGB")
        assert torch.equal(pixels, stock(images=[image], return_tensors="pt")["pixel_values"][0])
    assert input_size(processor) == (size, size)
    assert {pixels.shape for pixels in (*evaluation["pixel_values"], *training["pixel_values"])} == {(3, size, size)}


def test_the_logits_of_a_run_equal_those_of_the_transformers_pipeline(finished: Path, images: list[Path]) -> None:
    classifier = ImageClassifier.load(str(finished))
    upright = [open_image({"bytes": None, "path": str(path)}, name=path.name) for path in images]
    pixels = classifier.processor(images=upright, return_tensors="pt")["pixel_values"]
    ours = classifier.logits(pixels)
    classify = pipeline("image-classification", model=str(finished), dtype=torch.float32, device="cpu")
    for logits, path in zip(ours, images, strict=True):
        theirs = {a["label"]: a["score"] for a in classify(str(path), top_k=3, function_to_apply="none")}
        assert theirs == pytest.approx(dict(zip(COLORS, logits.tolist(), strict=True)), abs=1e-4)
    assert np.max(np.ptp(ours, axis=0)) > 1e-3  # otherwise the logits would not depend on the image


def test_a_run_trains_backbone_head_and_batch_norm_statistics(finished: Path) -> None:
    start = build(finished.parent / "checkpoint").state_dict()
    model = ImageClassifier.load(str(finished)).model
    changed = {key for key, weight in model.state_dict().items() if not torch.equal(weight.cpu(), start[key])}
    assert head_names(model) <= changed
    statistics = {key for key in start if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert statistics <= changed
    assert len(changed) > len(start) / 2


def test_strict_loading_restores_every_weight_and_buffer(finished: Path) -> None:
    model = build(finished.parent / "checkpoint")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    load_strictly(model, finished)
    best = newest_complete_checkpoint(finished)
    assert best is not None
    for folder in (finished, best):
        saved = AutoModelForImageClassification.from_pretrained(folder).state_dict()
        assert saved.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, saved[key]) for key, tensor in model.state_dict().items())


def test_another_resolution_interpolates_the_position_embeddings_and_nothing_else(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    name, folder, _ = checkpoint
    family = FAMILIES[name]
    if family.other_size is None:
        with pytest.raises(PipelineError, match="--image_size 64 is not supported for a timm model"):
            build(folder, image_size=64)
        return
    large = new_classifier(folder, image_size=family.other_size)
    old, new = build(folder).state_dict(), large.model.state_dict()
    assert old.keys() == new.keys()
    changed = {key for key in old if old[key].shape != new[key].shape or not torch.equal(old[key], new[key])}
    assert changed == ({family.position_embeddings} if family.position_embeddings else set())
    if name_of_weight := family.position_embeddings:
        expected = interpolated(old[name_of_weight], new[name_of_weight], family.num_prefix_tokens)
        assert torch.allclose(new[name_of_weight], expected, atol=1e-6)
    assert large.input_size == (family.other_size, family.other_size)

    (tmp_path / "run").mkdir()
    large.save(tmp_path / "run")
    loaded = ImageClassifier.load(str(tmp_path / "run"))
    assert loaded.input_size == (family.other_size, family.other_size)
    pixels = torch.randn(2, 3, family.other_size, family.other_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network: Any = large.model.eval()
        device = loaded.model.device
        logits = network.to(device)(pixel_values=pixels.to(device)).logits.cpu()
    assert logits.isfinite().all()
    np.testing.assert_array_equal(loaded.logits(pixels), logits.numpy())


def interpolated(old: Tensor, new: Tensor, num_prefix_tokens: int) -> Tensor:
    """Return the old position embeddings, interpolated channel by channel to the grid of the new ones."""
    embeddings = old.reshape(-1, old.shape[-1])
    old_grid, new_grid = (
        int((tensor.reshape(-1, tensor.shape[-1]).shape[0] - num_prefix_tokens) ** 0.5) for tensor in (old, new)
    )
    channels = [
        torch.nn.functional.interpolate(
            channel.reshape(1, 1, old_grid, old_grid), size=(new_grid, new_grid), mode="bicubic", align_corners=False
        ).flatten()
        for channel in embeddings[num_prefix_tokens:].T
    ]
    return torch.cat([embeddings[:num_prefix_tokens], torch.stack(channels, dim=1)]).reshape(new.shape)


def test_from_scratch_at_another_resolution(checkpoint: Checkpoint) -> None:
    name, folder, _ = checkpoint
    if (size := FAMILIES[name].other_size) is not None:
        classifier = new_classifier(folder, from_scratch=True, image_size=size)
        assert classifier.input_size == (size, size)
        assert classifier.model(pixel_values=torch.zeros(1, 3, size, size)).logits.shape == (1, 3)
