"""Every weight that should come from the checkpoint does, every other is new; what cannot fit is refused."""

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
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    ViTImageProcessor,
    ViTModel,
)

from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError
from pipeline.models.build import build_model
from pipeline.models.checkpoint import save_model
from pipeline.models.classifier import ImageClassifier
from pipeline.models.head import head_names
from tests.conftest import COLOURS, draw_image, save_vit
from tests.models.building import build, differing, logits
from tests.models.families import RESIZES, TOWERS, save

OWN = [f"LABEL_{number}" for number in range(5)]
TABLE = "vit.embeddings.position_embeddings"


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_head_and_label_maps_are_those_of_the_classes(tiny_vit: Path) -> None:
    model = build(tiny_vit)
    assert model.state_dict()["classifier.weight"].shape == (3, 32)
    assert model.config.num_labels == 3
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert model.config.label2id == {"blue": 0, "green": 1, "red": 2}
    assert {type(number) for number in model.config.label2id.values()} == {int}
    assert model.config.problem_type == "single_label_classification"


def test_the_backbone_is_the_checkpoint_s_and_only_the_head_is_new(tiny_vit: Path) -> None:
    backbone = ViTModel.from_pretrained(tiny_vit, add_pooling_layer=False).state_dict()
    model = build(tiny_vit)
    assert differing(model.base_model.state_dict(), backbone) == set()
    outside = {name for name in model.state_dict() if not name.startswith("vit.")}
    assert outside == {"classifier.weight", "classifier.bias"}


def test_a_new_head_is_drawn_by_the_seed(tiny_vit: Path) -> None:
    first, again, other = (build(tiny_vit, seed=seed).state_dict() for seed in (0, 0, 1))
    assert differing(first, again) == set()
    assert differing(first, other) == {"classifier.weight"}


def test_the_head_of_the_same_classes_in_the_same_order_stays(tiny_vit: Path) -> None:
    trained = AutoModelForImageClassification.from_pretrained(tiny_vit).state_dict()
    assert differing(build(tiny_vit, OWN).state_dict(), trained) == set()


def test_the_order_of_many_classes_is_that_of_their_numbers(tmp_path: Path) -> None:
    folder, names = save_vit(tmp_path, num_labels=12), [f"LABEL_{number}" for number in range(12)]
    trained = AutoModelForImageClassification.from_pretrained(folder).state_dict()
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {number: config["id2label"][number] for number in sorted(config["id2label"])}
    (folder / "config.json").write_text(json.dumps(config))  # 0, 1, 10, 11, 2: as other programs sort them
    assert differing(build(folder, names).state_dict(), trained) == set()


@pytest.mark.parametrize("classes", [["a", "b", "c", "d", "e"], OWN[::-1]], ids=["other names", "other order"])
def test_as_many_classes_but_others_get_a_new_head(tiny_vit: Path, classes: list[str]) -> None:
    trained = AutoModelForImageClassification.from_pretrained(tiny_vit).state_dict()
    model = build(tiny_vit, classes)
    assert differing(model.state_dict(), trained) == {"classifier.weight"}  # both biases start from zero
    assert differing(build(tiny_vit, classes, seed=1).state_dict(), model.state_dict()) == {"classifier.weight"}


def test_as_many_classes_but_others_forget_the_bias_too(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "biased")
    weights = load_file(tiny_vit / "model.safetensors")
    weights["classifier.bias"] = torch.ones(5)
    save_file(weights, tmp_path / "biased" / "model.safetensors", metadata={"format": "pt"})
    own, new = (build(tmp_path / "biased", classes).state_dict() for classes in (OWN, list("abcde")))
    assert own["classifier.bias"].tolist() == [1.0] * 5
    assert new["classifier.bias"].tolist() == [0.0] * 5


@pytest.mark.parametrize("classes", [list(COLOURS), OWN], ids=["new head", "the checkpoint's head"])
def test_a_zero_head_answers_nothing_yet(tiny_vit: Path, images: Tensor, classes: list[str]) -> None:
    model = build(tiny_vit, classes, head_init="zero")
    assert logits(model, images).abs().max() == 0
    assert differing(model.base_model.state_dict(), build(tiny_vit).base_model.state_dict()) == set()


def test_from_scratch_takes_the_shape_and_no_weight(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    first, again, other = (build(tmp_path / "bare", seed=seed, from_scratch=True) for seed in (0, 0, 1))
    pretrained = build(tiny_vit).state_dict()
    assert differing(first.state_dict(), again.state_dict()) == set()
    drawn = {name for name, tensor in pretrained.items() if tensor.std() > 0}
    assert {TABLE, "classifier.weight"} < drawn
    assert drawn <= differing(first.state_dict(), other.state_dict())
    assert drawn <= differing(first.state_dict(), pretrained)
    assert first.config.label2id == {"blue": 0, "green": 1, "red": 2}
    assert first.dtype == torch.float32


def test_a_checkpoint_in_half_precision_is_loaded_in_single(tiny_vit: Path, tmp_path: Path) -> None:
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


def test_a_checkpoint_that_lacks_weights_of_the_backbone_is_refused(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "holes")
    weights = load_file(tiny_vit / "model.safetensors")
    lost = [name for name in weights if "layer.1." in name]
    save_file(
        {name: tensor for name, tensor in weights.items() if name not in lost},
        tmp_path / "holes" / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(PipelineError, match=rf"does not fit a ViTFor.*it lacks {len(lost)} weights, first vit\."):
        build(tmp_path / "holes")


def test_a_model_of_texts_is_refused(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "bert")
    for from_scratch in (False, True):
        with pytest.raises(PipelineError, match=r"bert: transformers has no image classifier of the type bert"):
            build(tmp_path / "bert", from_scratch=from_scratch)


def test_a_backbone_for_which_transformers_has_no_classifier_is_refused(tmp_path: Path) -> None:
    config = DINOv3ViTConfig(image_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    DINOv3ViTModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(PipelineError, match="transformers has no image classifier of the type dinov3_vit"):
        build(tmp_path)


def test_a_tower_that_lacks_a_weight_is_refused_though_it_has_no_name_of_its_own(tmp_path: Path) -> None:
    save("siglip", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["vision_model.post_layernorm.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PipelineError, match=r"it lacks 1 weights, first vision_model\.post_layernorm\.weight"):
        build(tmp_path)


def test_both_towers_in_half_precision_are_loaded_in_single(tmp_path: Path) -> None:
    SiglipModel(SiglipConfig(**TOWERS)).half().save_pretrained(tmp_path)
    RESIZES.save_pretrained(tmp_path)
    for from_scratch in (False, True):
        model = build(tmp_path, from_scratch=from_scratch)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_a_distilled_checkpoint_is_trained_with_one_head_and_scored_with_both(tmp_path: Path) -> None:
    save("deit distilled", tmp_path)
    trained = build(tmp_path)
    assert type(trained) is DeiTForImageClassification
    assert head_names(trained) == {"classifier.weight", "classifier.bias"}
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    both = DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path).eval()(pixel_values=pixels)
    ours = torch.from_numpy(ImageClassifier.load(str(tmp_path)).logits(pixels))
    assert torch.allclose(ours, (both.cls_logits + both.distillation_logits) / 2, atol=1e-6)


@pytest.mark.parametrize("classes", [3, 5], ids=["other number", "as many"])
def test_a_timm_run_is_saved_with_its_own_names_whatever_those_before(tmp_path: Path, classes: int) -> None:
    save("timm vit", tmp_path / "first")
    for source, names in (("first", list("vwxyz")), ("second", list("abcde")[:classes])):
        arguments = ModelArguments(str(tmp_path / source))
        processor, model = build_model(arguments, class_names=names, seed=0)
        target = tmp_path / ("second" if source == "first" else "third")
        target.mkdir()
        save_model(model, processor, target)
        assert ImageClassifier.load(str(target)).class_names == names
        assert AutoModelForImageClassification.from_pretrained(target).config.label2id == model.config.label2id


def test_a_timm_backbone_without_head_gets_one(tmp_path: Path) -> None:
    backbone = timm.create_model("test_vit", num_classes=0, img_size=32)
    save_for_hf(backbone, str(tmp_path), data_config={"input_size": (3, 32, 32)}, safe_serialization=True)
    model = build(tmp_path)
    assert head_names(model) == {"timm_model.head.weight", "timm_model.head.bias"}
    kept = {f"timm_model.{name}": tensor for name, tensor in backbone.state_dict().items()}
    assert differing(kept, model.state_dict()) == head_names(model)


def test_a_timm_model_is_described_in_the_names_of_transformers(tmp_path: Path) -> None:
    save("timm resnet", tmp_path / "timm")
    processor, model = build_model(ModelArguments(str(tmp_path / "timm")), class_names=list(COLOURS), seed=0)
    save_model(model, processor, tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["size"] == {"height": 32, "width": 32}
    assert saved["image_processor_type"] == "TimmWrapperImageProcessor"
    # As it is found on the Hub, where this file is looked for first.
    hub = AutoImageProcessor.from_pretrained(tmp_path, image_processor_filename="preprocessor_config.json")
    image = draw_image((200, 50, 40), 0, size=(60, 40))
    made, expected = (p(images=[image], return_tensors="pt")["pixel_values"] for p in (hub, processor))
    assert made.equal(expected)
