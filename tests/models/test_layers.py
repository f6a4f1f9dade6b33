"""Depth, learning rate and weight decay of the weights of every family."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from transformers import (
    AutoModelForImageClassification,
    BeitConfig,
    BeitForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PoolFormerConfig,
    SwinConfig,
    SwinForImageClassification,
)

from pipeline.errors import PipelineError
from pipeline.models import lora
from pipeline.models.head import head_names
from pipeline.models.layers import block_depths, freeze_blocks, parameter_groups
from tests.models.building import build
from tests.models.conftest import Make
from tests.models.families import BEIT, DINOV2, FAMILIES, SWIN

BLOCKS = {
    "vit b/16": 2, "vit b/16 in21k": 2, "vit l/32": 2, "deit": 2, "deit distilled": 2, "swin": 3, "swin simmim": 3,
    "beit": 2, "beit pt22k": 2, "dinov2": 2, "siglip": 2, "clip": 2, "resnet": 2, "convnext": 2, "dinov3": 2,
    "aimv2": 2, "aimv2 native": 2, "aimv2 with text": 2, "radio": 2, "tipsv2": 2, "tipsv2 with text": 2, "pixio": 2,
    "clip vision": 2, "dinov3 convnext": 2, "vit mae": 2, "timm vit": 6, "timm resnet": 4,
}  # fmt: skip

# Module name -> depth of its weights. The modules contain every weight of the network.
DEPTHS: dict[str, dict[str, int]] = {
    "vit b/16": {"vit.embeddings": 0, "vit.layers.0": 1, "vit.layers.1": 2, "vit.layernorm": 3, "classifier": 3},
    "siglip": {
        "vision_model.embeddings": 0,
        "vision_model.encoder.layers.0": 1,
        "vision_model.encoder.layers.1": 2,
        "vision_model.post_layernorm": 3,
        "vision_model.head": 3,
        "classifier": 3,
    },
    "beit": {"beit.embeddings": 0, "beit.layers.0": 1, "beit.layers.1": 2, "beit.pooler": 3, "classifier": 3},
    "swin": {
        "swin.embeddings": 0,
        "swin.encoder.layers.0": 1,  # with the downsampling layer after its block
        "swin.encoder.layers.1.blocks.0": 2,
        "swin.encoder.layers.1.blocks.1": 3,
        "swin.layernorm": 4,
        "classifier": 4,
    },
    "resnet": {
        "resnet.embedder": 0,
        "resnet.encoder.stages.0.layers.0": 1,
        "resnet.encoder.stages.1.layers.0": 2,
        "classifier": 3,
    },
    "convnext": {
        "convnext.embeddings": 0,
        "convnext.encoder.stages.0.layers.0": 1,
        "convnext.encoder.stages.1": 2,  # with the downsampling layer before its block
        "convnext.layernorm": 3,
        "classifier": 3,
    },
    "dinov3": {
        "backbone.embeddings": 0,
        "backbone.model.layer.0": 1,
        "backbone.model.layer.1": 2,
        "backbone.norm": 3,
        "classifier": 3,
    },
    "aimv2": {
        "backbone.embeddings": 0,
        "backbone.encoder.layers.0": 1,
        "backbone.encoder.layers.1": 2,
        "backbone.rms_norm": 3,
        "backbone.head": 3,
        "classifier": 3,
    },
    "timm vit": {"timm_model.cls_token": 0, "timm_model.pos_embed": 0, "timm_model.patch_embed": 0}
    | {f"timm_model.blocks.{i}": i + 1 for i in range(6)}
    | {"timm_model.norm": 7, "timm_model.head": 7},
    "timm resnet": {"timm_model.conv1": 0, "timm_model.bn1": 0}
    | {f"timm_model.layer{i}.0": i for i in range(1, 5)}
    | {"timm_model.fc": 5},
}

# Weights with more than one dimension and no weight decay.
NO_WEIGHT_DECAY = {
    "vit b/16": {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"},
    "deit": {f"deit.embeddings.{name}" for name in ("cls_token", "distillation_token", "position_embeddings")},
    "swin": {
        f"swin.encoder.layers.{block}.attention.relative_position_bias.relative_position_bias_table"
        for block in ("0.blocks.0", "1.blocks.0", "1.blocks.1")
    },
    "beit": {"beit.embeddings.cls_token"}
    | {f"beit.layers.{i}.relative_position_bias.relative_position_bias_table" for i in range(2)},
    "dinov2": {f"dinov2.embeddings.{name}" for name in ("cls_token", "mask_token", "position_embeddings")},
    "clip": {"vision_model.embeddings.position_embedding.weight"},
    "dinov3": {f"backbone.embeddings.{name}" for name in ("cls_token", "mask_token", "register_tokens")},
    "radio": {f"backbone.embeddings.{name}" for name in ("cls_register_token", "position_embedding")},
    "timm vit": {"timm_model.cls_token", "timm_model.pos_embed"},
    "resnet": set(),
    "convnext": set(),
}


def settings(model: torch.nn.Module, **flags: Any) -> dict[str, tuple[float, float]]:
    """Return the learning rate and weight decay of each weight by name. Fail if a weight is in two groups."""
    names = {id(p): name for name, p in model.named_parameters()}
    rows = [
        (names[id(p)], (group["lr"], group["weight_decay"]))
        for group in parameter_groups(model, **flags)  # type: ignore[arg-type]
        for p in group["params"]
    ]
    assert len(rows) == len(dict(rows))
    return dict(rows)


def trained(model: torch.nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", FAMILIES)
def test_depths_start_before_the_blocks_and_end_with_the_head(name: str, make: Make) -> None:
    model = make(name)
    depths = block_depths(model)
    assert list(depths) == [name for name, _ in model.named_parameters()]
    assert set(depths.values()) == set(range(BLOCKS[name] + 2))
    assert {depths[key] for key in head_names(model)} == {BLOCKS[name] + 1}
    assert {depth for key, depth in depths.items() if "embeddings" in key} <= {0}


@pytest.mark.parametrize("name", DEPTHS)
def test_each_weight_has_its_depth(name: str, make: Make) -> None:
    unused = dict(DEPTHS[name])
    for key, depth in block_depths(make(name)).items():
        module = next(module for module in DEPTHS[name] if f"{key}.".startswith(f"{module}."))
        assert depth == DEPTHS[name][module], key
        unused.pop(module, None)
    assert not unused


def test_blocks_are_numbered_across_stages() -> None:
    model = SwinForImageClassification(SwinConfig(**SWIN | {"depths": [2, 1, 3], "num_heads": [1, 2, 4]}))
    depths = block_depths(model)
    first = {key.partition(".attention")[0]: depth for key, depth in depths.items() if "q_proj.weight" in key}
    assert list(first.values()) == [1, 2, 3, 4, 5, 6]
    assert depths["swin.encoder.layers.0.downsample.norm.weight"] == 2
    assert depths["swin.encoder.layers.1.downsample.norm.weight"] == 3


def test_a_list_of_patch_embeddings_is_not_a_list_of_blocks() -> None:
    config = PoolFormerConfig(depths=[1, 2], hidden_sizes=[8, 16], num_encoder_blocks=2)
    depths = block_depths(AutoModelForImageClassification.from_config(config))
    assert {depth for key, depth in depths.items() if "patch_embeddings" in key} == {0}
    assert [depths[f"poolformer.encoder.block.{i}.output.conv1.weight"] for i in ("0.0", "1.0", "1.1")] == [1, 2, 3]


def test_a_position_bias_that_all_blocks_share_has_depth_zero() -> None:
    shared = BEIT | {"use_relative_position_bias": False, "use_shared_relative_position_bias": True}
    model = BeitForImageClassification(BeitConfig(**shared))
    (bias,) = [key for key in block_depths(model) if "relative_position_bias_table" in key]
    assert block_depths(model)[bias] == 0
    assert settings(model, learning_rate=1.0, weight_decay=0.1)[bias] == (1.0, 0.0)


@pytest.mark.parametrize("name", FAMILIES)
def test_each_block_and_the_head_have_their_learning_rate(name: str, make: Make) -> None:
    model = make(name)
    n, depths, head = BLOCKS[name], block_depths(model), head_names(model)
    actual = settings(model, learning_rate=0.4, weight_decay=0.1, layer_decay=0.5, head_learning_rate=3.0)
    assert actual.keys() == depths.keys()
    for key, (lr, _) in actual.items():
        assert lr == pytest.approx(3.0 if key in head else 0.4 * 0.5 ** (n + 1 - depths[key])), key
    default = settings(model, learning_rate=0.4, weight_decay=0.1, layer_decay=0.5)
    assert {default[key][0] for key in head} == {0.4}


@pytest.mark.parametrize("name", NO_WEIGHT_DECAY)
def test_biases_norms_tokens_and_position_embeddings_have_no_weight_decay(name: str, make: Make) -> None:
    model = make(name)
    undecayed = {key for key, (_, decay) in settings(model, learning_rate=1.0, weight_decay=0.1).items() if decay == 0}
    dimensions = {key: p.ndim for key, p in model.named_parameters()}
    assert {key for key in undecayed if dimensions[key] > 1} == NO_WEIGHT_DECAY[name]
    assert {key for key, ndim in dimensions.items() if ndim <= 1} <= undecayed
    assert dimensions.keys() - undecayed >= {key for key in head_names(model) if key.endswith("weight")}


def test_register_tokens_have_no_weight_decay() -> None:
    model = Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(**DINOV2))
    actual = settings(model, learning_rate=1.0, weight_decay=0.1)
    assert actual["dinov2_with_registers.embeddings.register_tokens"] == (1.0, 0.0)


def test_groups_have_a_fixed_order_and_start_with_the_logged_learning_rate(make: Make) -> None:
    model = make("vit b/16")
    flags = {"learning_rate": 0.4, "weight_decay": 0.1}
    assert [(g["lr"], g["weight_decay"]) for g in parameter_groups(model, **flags)] == [(0.4, 0.0), (0.4, 0.1)]
    decayed = parameter_groups(model, **flags, layer_decay=0.5, head_learning_rate=3.0)
    # Learning rates of the final norm, the blocks, the embeddings and the head.
    learning_rates = [0.4, 0.2, 0.2, 0.1, 0.1, 0.05, 0.05, 3.0, 3.0]
    assert [group["lr"] for group in decayed] == pytest.approx(learning_rates)
    other = parameter_groups(copy.deepcopy(model), **flags, layer_decay=0.5, head_learning_rate=3.0)
    for group, other_group in zip(decayed, other, strict=True):
        assert group["lr"] == other_group["lr"]
        assert [p.shape for p in group["params"]] == [p.shape for p in other_group["params"]]
    optimizer = torch.optim.AdamW(decayed)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))


def test_only_trained_parameters_are_in_a_group(make: Make) -> None:
    model = make("vit b/16")
    model.get_parameter("vit.layernorm.weight").requires_grad_(False)
    assert settings(model, learning_rate=1.0, weight_decay=0.0).keys() == trained(model)


def test_adapters_have_one_learning_rate_and_the_head_can_have_another(make: Make) -> None:
    adapted = lora.add_lora(make("vit b/16"), rank=2, alpha=2, dropout=0.0)
    actual = settings(adapted, learning_rate=0.4, weight_decay=0.1, layer_decay=0.5, head_learning_rate=3.0)
    assert actual.keys() == trained(adapted)
    head = "base_model.model.classifier.modules_to_save.default."
    assert actual.pop(f"{head}weight") == (3.0, 0.1)
    assert actual.pop(f"{head}bias") == (3.0, 0.0)
    assert len(actual) == 2 * 2 * 2  # blocks, projections, matrices
    assert set(actual.values()) == {(0.4, 0.1)}


def test_a_network_that_is_not_a_chain_of_blocks_has_one_learning_rate(tmp_path: Path) -> None:
    network = timm.create_model("densenet121", num_classes=5, growth_rate=4, block_config=(1, 1))
    save_for_hf(network, str(tmp_path), data_config={"input_size": (3, 32, 32)}, safe_serialization=True)
    model = build(tmp_path)
    assert settings(model, learning_rate=1.0, weight_decay=0.1).keys() == trained(model)
    for rejected in (
        lambda: parameter_groups(model, learning_rate=1.0, weight_decay=0.1, layer_decay=0.5),
        lambda: freeze_blocks(model, 1),
    ):
        with pytest.raises(PipelineError, match="is not a chain of blocks: remove --layer_decay and --freeze_blocks"):
            rejected()
