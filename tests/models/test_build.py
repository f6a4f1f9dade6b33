"""The backbone comes from the checkpoint, the head is new, and checkpoints that do not match are rejected."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    SiglipConfig,
    SiglipModel,
    ViTModel,
)

from pipeline.errors import PipelineError
from pipeline.models.classifier import ImageClassifier
from pipeline.models.head import head_names
from tests.conftest import COLORS, noisy_image, save_vit
from tests.models.building import build, differing, logits, new_classifier
from tests.models.families import RESIZE_PROCESSOR, TOWERS, save

CHECKPOINT_CLASSES = [f"LABEL_{number}" for number in range(5)]
POSITION_EMBEDDINGS = "vit.embeddings.position_embeddings"


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_head_and_label_maps_match_the_classes(tiny_vit: Path) -> None:
    model = build(tiny_vit)
    assert model.state_dict()["classifier.weight"].shape == (3, 32)
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert model.config.label2id == {"blue": 0, "green": 1, "red": 2}
    assert {type(number) for number in model.config.label2id.values()} == {int}
    assert model.config.problem_type == "single_label_classification"


def test_only_the_head_is_new_and_the_backbone_comes_from_the_checkpoint(tiny_vit: Path) -> None:
    backbone = ViTModel.from_pretrained(tiny_vit, add_pooling_layer=False).state_dict()
    model = build(tiny_vit)
    assert differing(model.base_model.state_dict(), backbone) == set()
    not_in_backbone = {name for name in model.state_dict() if not name.startswith("vit.")}
    assert not_in_backbone == {"classifier.weight", "classifier.bias"}


def test_the_seed_determines_a_new_head(tiny_vit: Path) -> None:
    first, again, other = (build(tiny_vit, seed=seed).state_dict() for seed in (0, 0, 1))
    assert differing(first, again) == set()
    assert differing(first, other) == {"classifier.weight"}


def test_the_head_is_kept_for_the_same_classes_in_the_same_order(tiny_vit: Path) -> None:
    trained = AutoModelForImageClassification.from_pretrained(tiny_vit).state_dict()
    assert differing(build(tiny_vit, CHECKPOINT_CLASSES).state_dict(), trained) == set()


def test_more_than_ten_classes_are_ordered_by_number(tmp_path: Path) -> None:
    folder, names = save_vit(tmp_path, num_labels=12), [f"LABEL_{number}" for number in range(12)]
    trained = AutoModelForImageClassification.from_pretrained(folder).state_dict()
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {number: config["id2label"][number] for number in sorted(config["id2label"])}
    (folder / "config.json").write_text(json.dumps(config))  # 0, 1, 10, 11, 2: as some programs sort them
    assert differing(build(folder, names).state_dict(), trained) == set()


@pytest.mark.parametrize(
    "classes",
    [
        [*CHECKPOINT_CLASSES, "new"],
        ["aaa", *CHECKPOINT_CLASSES[:2], "new", *CHECKPOINT_CLASSES[2:]],
        CHECKPOINT_CLASSES[::-1],
        CHECKPOINT_CLASSES[1:4],
    ],
    ids=["one more", "two more, in between", "other order", "fewer"],
)
def test_the_outputs_of_the_checkpoint_are_kept_by_class_name(
    tiny_vit: Path, tmp_path: Path, classes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    biased = shutil.copytree(tiny_vit, tmp_path / "biased")
    weights = load_file(biased / "model.safetensors") | {"classifier.bias": torch.arange(1.0, 6.0)}
    save_file(weights, biased / "model.safetensors", metadata={"format": "pt"})
    with caplog.at_level("INFO"):
        model, other_seed = (build(biased, classes, seed=seed).state_dict() for seed in (0, 1))
    for row, name in enumerate(classes):
        if name in CHECKPOINT_CLASSES:
            old = CHECKPOINT_CLASSES.index(name)
            assert torch.equal(model["classifier.weight"][row], weights["classifier.weight"][old])
            assert model["classifier.bias"][row] == old + 1
        else:
            assert not torch.equal(model["classifier.weight"][row], other_seed["classifier.weight"][row])
            assert model["classifier.bias"][row] == 0
    kept = len(set(classes) & set(CHECKPOINT_CLASSES))
    new = f" for {kept} classes, a new one" if kept < len(classes) else ""
    assert f"the checkpoint's head{new} for {len(classes)} classes" in caplog.text


@pytest.mark.parametrize("classes", [list("abcde"), [*CHECKPOINT_CLASSES[:4], "new"]], ids=["other names", "overlap"])
def test_the_same_number_of_other_classes_gets_a_new_head(tiny_vit: Path, classes: list[str]) -> None:
    trained = AutoModelForImageClassification.from_pretrained(tiny_vit).state_dict()
    model = build(tiny_vit, classes)
    assert differing(model.state_dict(), trained) == {"classifier.weight"}  # both biases start from zero
    assert differing(build(tiny_vit, classes, seed=1).state_dict(), model.state_dict()) == {"classifier.weight"}


def test_a_new_head_does_not_keep_the_bias_of_the_checkpoint(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "biased")
    weights = load_file(tiny_vit / "model.safetensors")
    weights["classifier.bias"] = torch.ones(5)
    save_file(weights, tmp_path / "biased" / "model.safetensors", metadata={"format": "pt"})
    folder = tmp_path / "biased"
    kept, new = (build(folder, classes).state_dict() for classes in (CHECKPOINT_CLASSES, list("abcde")))
    assert kept["classifier.bias"].tolist() == [1.0] * 5
    assert new["classifier.bias"].tolist() == [0.0] * 5


@pytest.mark.parametrize("classes", [list(COLORS), CHECKPOINT_CLASSES], ids=["new head", "the checkpoint's head"])
def test_a_zero_head_gives_zero_logits(tiny_vit: Path, images: Tensor, classes: list[str]) -> None:
    model = build(tiny_vit, classes, head_init="zero")
    assert logits(model, images).abs().max() == 0
    assert differing(model.base_model.state_dict(), build(tiny_vit).base_model.state_dict()) == set()


def test_from_scratch_uses_the_architecture_but_no_weights(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    first, again, other = (build(tmp_path / "bare", seed=seed, from_scratch=True) for seed in (0, 0, 1))
    pretrained = build(tiny_vit).state_dict()
    assert differing(first.state_dict(), again.state_dict()) == set()
    random = {name for name, tensor in pretrained.items() if tensor.std() > 0}
    assert {POSITION_EMBEDDINGS, "classifier.weight"} < random
    assert random <= differing(first.state_dict(), other.state_dict())
    assert random <= differing(first.state_dict(), pretrained)
    assert first.config.label2id == {"blue": 0, "green": 1, "red": 2}
    assert first.dtype == torch.float32


def test_a_half_precision_checkpoint_is_loaded_in_fp32(tiny_vit: Path, tmp_path: Path) -> None:
    half = AutoModelForImageClassification.from_pretrained(tiny_vit, dtype=torch.float16)
    half.save_pretrained(tmp_path / "half")
    shutil.copy(tiny_vit / "preprocessor_config.json", tmp_path / "half")
    for from_scratch in (False, True):
        model = build(tmp_path / "half", from_scratch=from_scratch)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
        assert model.config.dtype == torch.float32
    stored = half.vit.state_dict()
    loaded = build(tmp_path / "half").base_model.state_dict()
    assert all(torch.equal(loaded[name], stored[name].float()) for name in loaded)


def test_a_checkpoint_with_missing_backbone_weights_is_rejected(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "holes")
    weights = load_file(tiny_vit / "model.safetensors")
    missing = [name for name in weights if "layer.1." in name]
    save_file(
        {name: tensor for name, tensor in weights.items() if name not in missing},
        tmp_path / "holes" / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(PipelineError, match=rf"does not fit a ViTFor.*it lacks {len(missing)} weights, first vit\."):
        build(tmp_path / "holes")


def test_a_text_model_is_rejected(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    for from_scratch in (False, True):
        with pytest.raises(
            PipelineError, match="bert has the model type bert, for which transformers has no image classifier"
        ):
            build(tmp_path / "bert", from_scratch=from_scratch)


def test_a_vision_tower_with_a_missing_weight_is_rejected(tmp_path: Path) -> None:
    save("siglip", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vision_model.post_layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PipelineError, match=r"it lacks 1 weights, first vision_model\.post_layernorm\.weight"):
        build(tmp_path)


def test_a_half_precision_model_with_two_towers_is_loaded_in_fp32(tmp_path: Path) -> None:
    SiglipModel(SiglipConfig(**TOWERS)).half().save_pretrained(tmp_path)
    RESIZE_PROCESSOR.save_pretrained(tmp_path)
    for from_scratch in (False, True):
        model = build(tmp_path, from_scratch=from_scratch)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_a_distilled_checkpoint_is_trained_with_one_head_and_evaluated_with_two(tmp_path: Path) -> None:
    save("deit distilled", tmp_path)
    trained = build(tmp_path)
    assert type(trained) is DeiTForImageClassification
    assert head_names(trained) == {"classifier.weight", "classifier.bias"}
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    expected = DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path).eval()(pixel_values=pixels)
    ours = torch.from_numpy(ImageClassifier.load(str(tmp_path)).logits(pixels))
    assert torch.allclose(ours, (expected.cls_logits + expected.distillation_logits) / 2, atol=1e-6)


@pytest.mark.parametrize("classes", [3, 5], ids=["other number", "same number"])
def test_a_timm_run_is_saved_with_its_own_class_names(tmp_path: Path, classes: int) -> None:
    save("timm vit", tmp_path / "first")
    for source, names in (("first", list("vwxyz")), ("second", list("abcde")[:classes])):
        classifier = new_classifier(tmp_path / source, names)
        target = tmp_path / ("second" if source == "first" else "third")
        target.mkdir()
        classifier.save(target)
        assert ImageClassifier.load(str(target)).class_names == names
        label2id = AutoModelForImageClassification.from_pretrained(target).config.label2id
        assert label2id == classifier.model.config.label2id


def test_a_timm_backbone_without_a_head_gets_a_new_head(tmp_path: Path) -> None:
    backbone = timm.create_model("test_vit", num_classes=0, img_size=32)
    save_for_hf(backbone, str(tmp_path), data_config={"input_size": (3, 32, 32)}, safe_serialization=True)
    model = build(tmp_path)
    assert head_names(model) == {"timm_model.head.weight", "timm_model.head.bias"}
    expected = {f"timm_model.{name}": tensor for name, tensor in backbone.state_dict().items()}
    assert differing(expected, model.state_dict()) == head_names(model)


def test_a_timm_model_is_saved_with_the_processor_attributes_of_transformers(tmp_path: Path) -> None:
    save("timm resnet", tmp_path / "timm")
    classifier = new_classifier(tmp_path / "timm")
    classifier.save(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["size"] == {"height": 32, "width": 32}
    assert saved["image_processor_type"] == "TimmWrapperImageProcessor"
    # On the Hub, transformers looks for this file first.
    from_file = AutoImageProcessor.from_pretrained(tmp_path, image_processor_filename="preprocessor_config.json")
    image = noisy_image((200, 50, 40), 0, size=(60, 40))
    pixels, expected = (
        processor(images=[image], return_tensors="pt")["pixel_values"]
        for processor in (from_file, classifier.processor)
    )
    assert pixels.equal(expected)
