"""Which models get a pooled head, and why others are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    DetrConfig,
    DPTConfig,
    DPTModel,
    PixtralVisionConfig,
    PreTrainedConfig,
    ResNetConfig,
    Sam2HieraDetConfig,
    VideoMAEConfig,
    Wav2Vec2Config,
    WhisperConfig,
)

from pipeline.errors import PipelineError
from pipeline.models.checkpoint import read_config
from pipeline.models.pooled.network import PooledConfig
from tests.models.building import build
from tests.models.families import B16, LAYERS, RESIZE_PROCESSOR, RESNET, save

DETR: dict[str, Any] = {
    "backbone_config": ResNetConfig(**RESNET | {"out_features": ["stage2"]}),
    "use_timm_backbone": False,
    "use_pretrained_backbone": False,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
}
ONE_SEQUENCE: dict[str, Any] = B16 | {"head_dim": 16}
HIERA: dict[str, Any] = {
    "hidden_size": 8,
    "num_attention_heads": 1,
    "image_size": [64, 64],
    "blocks_per_stage": [1, 1, 1, 1],
    "embed_dim_per_stage": [8, 16, 32, 64],
    "num_attention_heads_per_stage": [1, 1, 1, 1],
    "window_size_per_stage": [8, 4, 4, 4],
    "global_attention_blocks": [],
}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BertConfig(**LAYERS, vocab_size=8), "its main input is input_ids, not pixel_values: use a vision model"),
        (Wav2Vec2Config(**LAYERS), "its main input is input_values, not pixel_values: use a vision model"),
        (WhisperConfig(d_model=16, encoder_layers=1, decoder_layers=1), "its main input is input_features"),
        (VideoMAEConfig(**B16), r"its backbone cannot be run on 32x32 images alone \(.*\): use another model"),
        (DetrConfig(**DETR), "it detects objects and returns no features of an image: use another model"),
        (PixtralVisionConfig(**ONE_SEQUENCE), r"returns no pooled vector, no tokens .*: use another model"),
        (Sam2HieraDetConfig(**HIERA), r"returns .* no feature map \(batch, channels, rows, columns\): use another"),
    ],
    ids=["text", "audio", "speech", "video", "objects", "one sequence for a batch", "channels last"],
)
def test_what_does_not_turn_images_into_features_is_refused(
    config: PreTrainedConfig, reason: str, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path / "model")
    with pytest.raises(
        PipelineError, match=rf"^model has the model type \w+, for which transformers has .*{reason}"
    ) as e:
        read_config(tmp_path / "model", name="model")
    assert len(str(e.value).splitlines()) == 1


def test_the_weights_are_not_allocated_to_look_at_a_backbone(tmp_path: Path) -> None:
    save("dinov3", tmp_path)
    state = torch.random.get_rng_state()
    config = read_config(tmp_path, name="model")
    assert isinstance(config, PooledConfig)
    assert (config.pooling, config.num_prefix_tokens, config.num_features) == ("class_token_and_patches", 5, 64)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("name", ["dinov3", "aimv2 with text", "radio", "dinov3 convnext"])
def test_a_backbone_that_lacks_a_weight_is_refused(name: str, tmp_path: Path) -> None:
    save(name, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    lost = next(key for key in weights if ("embed" in key and "text" not in key) or "downsample" in key)
    del weights[lost]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PipelineError, match=r"does not fit a \w+ForImageClassification: it lacks 1 weights, first "):
        build(tmp_path)


def test_a_pooler_that_the_checkpoint_lacks_is_refused(tmp_path: Path) -> None:
    DPTModel(DPTConfig(**B16), add_pooling_layer=False).save_pretrained(tmp_path)
    RESIZE_PROCESSOR.save_pretrained(tmp_path)
    with pytest.raises(PipelineError, match=r"it lacks 2 weights, first backbone\.pooler\.dense\.bias"):
        build(tmp_path)
