"""Every family: only the head is new, both transforms fit, the run loads elsewhere alike, and so at another size."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel, pipeline

from pipeline import cli
from pipeline.arguments.images import AugmentationArguments
from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError
from pipeline.images.decode import open_image
from pipeline.images.processor import ImageProcessor, input_size
from pipeline.images.transforms import Batch, EvalTransform, TrainTransform
from pipeline.models.build import build_model
from pipeline.models.checkpoint import load_strictly, save_model
from pipeline.models.classifier import ImageClassifier
from pipeline.models.head import head_names
from pipeline.runs.checkpoints import newest_complete_checkpoint
from tests.conftest import COLOURS, draw_image
from tests.models.families import FAMILIES, save

Checkpoint = tuple[str, Path, dict[str, Tensor]]

# A run takes a second or two: one for each class of network.
RUNS = [
    "vit b/16 in21k", "deit distilled", "swin", "beit pt22k", "dinov2", "siglip", "resnet", "convnext", "timm vit",
    "timm resnet",
]  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Name, folder and weights of one family."""
    folder = tmp_path_factory.mktemp("family")
    return request.param, folder, save(request.param, folder)


@pytest.fixture(scope="module", params=RUNS)
def finished(request: pytest.FixtureRequest, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two steps of training; the checkpoint lies beside it."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    model = folder.parent / "checkpoint"
    save(request.param, model)
    words = [
        "train", f"--model_name_or_path={model}", f"--dataset_name={photos}", f"--output_dir={folder}",
        "--max_steps=2", "--per_device_train_batch_size=4", "--learning_rate=1e-3", "--precision=fp32",
        "--dataloader_num_workers=0",
    ]  # fmt: skip
    assert cli.main(words) == 0
    return folder


def build(folder: Path, **changes: object) -> tuple[ImageProcessor, PreTrainedModel]:
    arguments = ModelArguments(model_name_or_path=str(folder), **changes)  # type: ignore[arg-type]
    return build_model(arguments, class_names=list(COLOURS), seed=0)


def weights_of(weights: dict[str, Tensor], name: str) -> Tensor:
    """The weight of a classifier as its checkpoint has it: a bare backbone's names lack the first part."""
    return weights[name if name in weights else name.partition(".")[2]]


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """An RGB, a grey and a CMYK file, not square."""
    image = draw_image((120, 60, 90), 1, size=(60, 44))
    for mode in ("RGB", "L", "CMYK"):
        image.convert(mode).save(tmp_path / f"{mode}.jpg")
    return [tmp_path / f"{mode}.jpg" for mode in ("RGB", "L", "CMYK")]


def test_the_head_is_new_and_every_other_weight_is_the_checkpoint_s(checkpoint: Checkpoint) -> None:
    name, folder, weights = checkpoint
    _, model = build(folder)
    head = head_names(model)
    assert 1 <= len(head) <= 2
    assert {model.get_parameter(key).shape[0] for key in head} == {3}
    kept = model.state_dict().keys() - head - FAMILIES[name].new
    for key in kept:
        assert torch.equal(model.state_dict()[key], weights_of(weights, key)), key
    assert kept


def test_a_zero_head_is_zero_and_the_backbone_is_not(checkpoint: Checkpoint) -> None:
    name, folder, weights = checkpoint
    _, model = build(folder, head_init="zero")
    size = FAMILIES[name].size
    assert model(pixel_values=torch.randn(2, 3, size, size)).logits.abs().max() == 0
    for key in model.state_dict().keys() - head_names(model) - FAMILIES[name].new:
        assert torch.equal(model.state_dict()[key], weights_of(weights, key)), key


def test_from_scratch_every_weight_is_drawn(checkpoint: Checkpoint) -> None:
    name, folder, weights = checkpoint
    _, model = build(folder, from_scratch=True)
    new = head_names(model) | FAMILIES[name].new
    for key, weight in model.named_parameters():
        if key not in new:
            assert not torch.equal(weight, weights_of(weights, key)), key
        assert weight.isfinite().all(), key


def test_evaluation_sees_what_the_processor_makes_and_training_the_same_size(
    checkpoint: Checkpoint, images: list[Path]
) -> None:
    name, folder, _ = checkpoint
    size = FAMILIES[name].size
    processor, _ = build(folder)
    rows: Batch = {
        "image": [{"bytes": None, "path": str(path)} for path in images],
        "label": [0] * 3,
        "index": list(range(3)),
    }
    scored, seen = EvalTransform(processor)(rows), TrainTransform(processor, AugmentationArguments(), seed=0)(rows)
    own = AutoImageProcessor.from_pretrained(folder, backend="torchvision")
    for path, pixels in zip(images, scored["pixel_values"], strict=True):
        image = PIL.Image.open(path).convert("RGB")
        assert torch.equal(pixels, own(images=[image], return_tensors="pt")["pixel_values"][0])
    assert input_size(processor) == (size, size)
    assert {pixels.shape for pixels in (*scored["pixel_values"], *seen["pixel_values"])} == {(3, size, size)}


def test_a_run_answers_as_the_pipeline_that_people_deploy(finished: Path, images: list[Path]) -> None:
    classifier = ImageClassifier.load(str(finished))
    upright = [open_image({"bytes": None, "path": str(path)}, name=path.name) for path in images]
    pixels = classifier.processor(images=upright, return_tensors="pt")["pixel_values"]
    ours = classifier.logits(pixels)
    classify = pipeline("image-classification", model=str(finished), dtype=torch.float32, device="cpu")
    for logits, path in zip(ours, images, strict=True):
        theirs = {a["label"]: a["score"] for a in classify(str(path), top_k=3, function_to_apply="none")}
        assert theirs == pytest.approx(dict(zip(COLOURS, logits.tolist(), strict=True)), abs=1e-4)
    assert np.ptp(ours, axis=0).max() > 1e-3  # else any image would have answered for any other


def test_a_run_trains_backbone_head_and_statistics(finished: Path) -> None:
    start = build(finished.parent / "checkpoint")[1].state_dict()
    model = ImageClassifier.load(str(finished)).model
    moved = {key for key, weight in model.state_dict().items() if not torch.equal(weight.cpu(), start[key])}
    assert head_names(model) <= moved
    statistics = {key for key in start if key.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert statistics <= moved
    assert len(moved) > len(start) / 2


def test_strict_loading_restores_every_weight_and_buffer(finished: Path) -> None:
    _, model = build(finished.parent / "checkpoint")
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


def test_another_size_interpolates_the_position_table_and_nothing_else(checkpoint: Checkpoint, tmp_path: Path) -> None:
    name, folder, _ = checkpoint
    family = FAMILIES[name]
    if family.other_size is None:
        with pytest.raises(PipelineError, match="--image_size cannot be changed for a timm model"):
            build(folder, image_size=64)
        return
    _, small = build(folder)
    processor, large = build(folder, image_size=family.other_size)
    old, new = small.state_dict(), large.state_dict()
    assert old.keys() == new.keys()
    changed = {key for key in old if old[key].shape != new[key].shape or not torch.equal(old[key], new[key])}
    assert changed == ({family.table} if family.table else set())
    if family.table:
        expected = interpolated(old[family.table], new[family.table], family.prefix)
        assert torch.allclose(new[family.table], expected, atol=1e-6)
    assert input_size(processor) == (family.other_size, family.other_size)

    (tmp_path / "run").mkdir()
    save_model(large, processor, tmp_path / "run")
    again = ImageClassifier.load(str(tmp_path / "run"))
    assert input_size(again.processor) == (family.other_size, family.other_size)
    pixels = torch.randn(2, 3, family.other_size, family.other_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = large.eval().to(again.model.device)(pixel_values=pixels.to(again.model.device)).logits.cpu()
    assert logits.isfinite().all()
    np.testing.assert_array_equal(again.logits(pixels), logits.numpy())


def interpolated(old: Tensor, new: Tensor, prefix: int) -> Tensor:
    """The old table for the places of the new one, channel by channel."""
    table = old.reshape(-1, old.shape[-1])
    side, new_side = (int((t.reshape(-1, t.shape[-1]).shape[0] - prefix) ** 0.5) for t in (old, new))
    channels = [
        torch.nn.functional.interpolate(
            channel.reshape(1, 1, side, side), size=(new_side, new_side), mode="bicubic", align_corners=False
        ).flatten()
        for channel in table[prefix:].T
    ]
    return torch.cat([table[:prefix], torch.stack(channels, dim=1)]).reshape(new.shape)


def test_from_scratch_at_another_size(checkpoint: Checkpoint) -> None:
    name, folder, _ = checkpoint
    if (size := FAMILIES[name].other_size) is not None:
        processor, model = build(folder, from_scratch=True, image_size=size)
        assert input_size(processor) == (size, size)
        assert model(pixel_values=torch.zeros(1, 3, size, size)).logits.shape == (1, 3)
