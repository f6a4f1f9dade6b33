"""Every weight that should come from the checkpoint does, every other is new; what cannot fit is refused."""

import json
import resource
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BertConfig,
    BertForSequenceClassification,
    BitImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    ViTImageProcessor,
    ViTModel,
)

from pipeline import runs
from pipeline.config import ModelArguments
from pipeline.data.transforms import input_size
from pipeline.errors import PipelineError
from pipeline.models.backbone import build_model, load_strictly, save_artefact, set_input_size
from tests.conftest import draw_image, save_vit

COLOURS = ["blue", "green", "red"]
OWN = [f"LABEL_{number}" for number in range(5)]
TABLE = "vit.embeddings.position_embeddings"


def build(folder: Path, classes: list[str] | None = None, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    arguments = ModelArguments(model_name_or_path=str(folder), **changes)
    return build_model(arguments, class_names=classes or COLOURS, seed=seed)[1]


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> set[str]:
    """Names of the tensors that are not the same, or not in both."""
    same = {name for name in one.keys() & other.keys() if torch.equal(one[name], other[name])}
    return (one.keys() | other.keys()) - same


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def logits(model: PreTrainedModel, images: Tensor) -> Tensor:
    answer: Tensor = model.eval()(pixel_values=images).logits
    return answer


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


@pytest.mark.parametrize("classes", [COLOURS, OWN], ids=["new head", "the checkpoint's head"])
def test_a_zero_head_answers_nothing_yet(tiny_vit: Path, images: Tensor, classes: list[str]) -> None:
    model = build(tiny_vit, classes, zero_head=True)
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


def test_another_resolution_interpolates_the_position_table_and_nothing_else(tiny_vit: Path) -> None:
    small, large = build(tiny_vit).state_dict(), build(tiny_vit, image_size=32).state_dict()
    assert differing(small, large) == {TABLE}
    old, new = small[TABLE], large[TABLE]
    assert old.shape == (1, 1 + 4 * 4, 32)
    assert new.shape == (1, 1 + 8 * 8, 32)
    assert torch.equal(new[:, 0], old[:, 0])  # the class token has no place
    for channel in range(32):
        grid = old[0, 1:, channel].reshape(1, 1, 4, 4)
        expected = torch.nn.functional.interpolate(grid, size=(8, 8), mode="bicubic", align_corners=False)
        assert torch.allclose(new[0, 1:, channel].reshape(8, 8), expected[0, 0], atol=1e-6)


def test_the_resolution_of_the_checkpoint_changes_nothing(tiny_vit: Path) -> None:
    assert differing(build(tiny_vit).state_dict(), build(tiny_vit, image_size=16).state_dict()) == set()


@pytest.mark.parametrize("from_scratch", [False, True])
def test_another_resolution_is_saved_with_config_and_processor(
    tiny_vit: Path, tmp_path: Path, from_scratch: bool
) -> None:
    arguments = ModelArguments(model_name_or_path=str(tiny_vit), image_size=32, from_scratch=from_scratch)
    processor, model = build_model(arguments, class_names=COLOURS, seed=0)
    (tmp_path / "run").mkdir()
    save_artefact(model, processor, tmp_path / "run")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert again.config.image_size == 32
    assert dict(AutoImageProcessor.from_pretrained(tmp_path / "run").size) == {"height": 32, "width": 32}
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(logits(again, images), logits(model, images))


@pytest.mark.parametrize("crops", [False, True])
def test_the_processor_of_another_resolution_makes_images_of_it(tiny_vit: Path, tmp_path: Path, crops: bool) -> None:
    shutil.copytree(tiny_vit, tmp_path / "model")
    if crops:
        cropping = BitImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 16, "width": 16})
        cropping.save_pretrained(tmp_path / "model")
    arguments = ModelArguments(model_name_or_path=str(tmp_path / "model"), image_size=32)
    processor, _ = build_model(arguments, class_names=COLOURS, seed=0)
    image = draw_image((200, 50, 40), 0, size=(60, 40))
    assert processor(images=[image], return_tensors="pt")["pixel_values"].shape == (1, 3, 32, 32)
    assert input_size(processor) == (32, 32)


def test_a_processor_that_crops_keeps_the_ratio_of_resize_and_crop() -> None:
    processor: Any = BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    set_input_size(processor, 448)
    assert dict(processor.crop_size) == {"height": 448, "width": 448}
    assert dict(processor.size) == {"shortest_edge": 512}
    uncropped: Any = BitImageProcessor(size={"shortest_edge": 224}, do_center_crop=False)
    set_input_size(uncropped, 448)
    assert dict(uncropped.size) == {"shortest_edge": 448}


@pytest.mark.parametrize(("size", "near"), [(30, "28 or 32"), (2, "try 4$"), (17, "16 or 20"), (0, "try 4$")])
def test_a_resolution_that_the_patch_size_does_not_divide_is_refused_with_those_near_it(
    tiny_vit: Path, size: int, near: str
) -> None:
    with pytest.raises(PipelineError, match=f"--image_size {size} is no multiple of the patch size 4: .*{near}"):
        build(tiny_vit, image_size=size)


def test_a_network_without_patches_keeps_its_resolution(tmp_path: Path) -> None:
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    assert build(tmp_path).config.num_labels == 3
    with pytest.raises(PipelineError, match="--image_size cannot be changed for a resnet: leave it out"):
        build(tmp_path, image_size=32)


def test_a_checkpoint_without_image_processor_is_refused(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "preprocessor_config.json").unlink()
    with pytest.raises(PipelineError, match=r"bare has no image processor: add a preprocessor_config\.json"):
        build(tmp_path / "bare")


def test_a_checkpoint_without_weights_is_refused(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    with pytest.raises(PipelineError, match="bare has no safetensors weights: add --from_scratch"):
        build(tmp_path / "bare")


def test_a_checkpoint_with_damaged_weights_is_refused(tiny_vit: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_vit, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(PipelineError, match=r"the weights of cut are damaged .*: get them again"):
        build(tmp_path / "cut")


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
    with pytest.raises(PipelineError, match="bert has no image processor"):
        build(tmp_path / "bert")
    ViTImageProcessor().save_pretrained(tmp_path / "bert")
    with pytest.raises(PipelineError, match=r"bert is no image classifier: .*BertConfig"):
        build(tmp_path / "bert")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_vit(tmp_path / "saved", num_labels=3)


@pytest.fixture
def other(tmp_path: Path) -> PreTrainedModel:
    """The same shape with other weights in every tensor."""
    folder = save_vit(tmp_path / "other", num_labels=3)
    model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1.0)
    return model


def test_strict_loading_restores_every_tensor(saved: Path, other: PreTrainedModel) -> None:
    expected = AutoModelForImageClassification.from_pretrained(saved).state_dict()
    assert differing(other.state_dict(), expected) == expected.keys()
    places = {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}
    load_strictly(other, saved)
    assert differing(other.state_dict(), expected) == set()
    assert places == {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}  # optimizers hold them


def test_the_stock_trainer_leaves_most_of_a_vit_as_it_was(saved: Path, other: PreTrainedModel, tmp_path: Path) -> None:
    """Once this fails, transformers has mended it, and `StrictTrainer` need not load by itself."""
    expected = AutoModelForImageClassification.from_pretrained(saved).state_dict()
    trainer = Trainer(other, TrainingArguments(str(tmp_path / "run"), use_cpu=True, report_to="none"))
    trainer._load_from_checkpoint(str(saved))
    assert len(differing(other.state_dict(), expected)) > len(expected) / 2


@pytest.mark.parametrize("damage", ["missing", "left over", "other shape"])
def test_strict_loading_fails_on_any_weight_that_does_not_fit(saved: Path, other: PreTrainedModel, damage: str) -> None:
    weights = load_file(saved / "model.safetensors")
    name = "vit.encoder.layer.1.attention.attention.query.weight"
    assert name in weights
    if damage == "missing":
        del weights[name]
    elif damage == "left over":
        weights["vit.surplus.weight"] = torch.ones(2)
    else:
        weights["classifier.weight"] = torch.ones(4, 32)
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    with pytest.raises(PipelineError, match="saved does not fit the model: "):
        load_strictly(other, saved)
    assert differing(other.state_dict(), before) == set()


def test_the_artefact_is_exactly_its_files_and_anybody_may_read_them(tiny_vit: Path, tmp_path: Path) -> None:
    processor, model = build_model(ModelArguments(str(tiny_vit)), class_names=COLOURS, seed=0)
    (tmp_path / runs.CARD).write_text("mine")
    for _ in range(2):  # the second replaces the first
        save_artefact(model, processor, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {*runs.ARTEFACT, runs.CARD}
    assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o644
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert differing(again.state_dict(), model.state_dict()) == set()
    assert vars(AutoImageProcessor.from_pretrained(tmp_path)) == vars(processor)


def test_a_draft_that_a_killed_run_left_does_no_harm(tiny_vit: Path, tmp_path: Path) -> None:
    processor, model = build_model(ModelArguments(str(tiny_vit)), class_names=COLOURS, seed=0)
    (tmp_path / ".artefact").mkdir()
    (tmp_path / ".artefact" / "model.safetensors").write_bytes(b"half")
    save_artefact(model, processor, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {*runs.ARTEFACT}


def test_an_artefact_for_which_there_is_no_place_is_explained(tiny_vit: Path, tmp_path: Path) -> None:
    processor, model = build_model(ModelArguments(str(tiny_vit)), class_names=COLOURS, seed=0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PipelineError, match=r"cannot write the model into .*file: Not a directory"):
        save_artefact(model, processor, tmp_path / "file")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a disk that is full, as far as writing goes
    try:
        with pytest.raises(PipelineError, match=r"cannot write the model into .*File too large"):
            save_artefact(model, processor, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "config.json").exists()
