"""LoRA adapters on every family: training, merging and saving."""

import copy
import json
import logging
import warnings
from pathlib import Path

import pytest
import timm
import torch
from peft import PeftModel
from timm.models import save_for_hf
from torch import Tensor
from transformers import AutoModelForImageClassification, MobileViTConfig, PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.models import lora
from pipeline.models.head import head_names
from pipeline.models.layers import parameter_groups
from pipeline.models.lora import add_lora, merged, save_adapter, unwrap
from tests.models.building import build, differing, logits
from tests.models.conftest import Make
from tests.models.families import FAMILIES

# Family with attention -> number of query and value projections.
PROJECTIONS = {
    "vit b/16": 4, "deit": 4, "swin": 6, "beit": 4, "dinov2": 4, "siglip": 4, "clip": 4, "dinov3": 4,
    "aimv2": 5, "radio": 4, "tipsv2": 4, "timm vit": 6,
}  # fmt: skip
FAMILIES_WITH_ATTENTION = list(PROJECTIONS)


def pixels(name: str) -> Tensor:
    size = FAMILIES[name].size
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def adapt(model: PreTrainedModel, *, rank: int = 2, alpha: int = 4, dropout: float = 0.0) -> PeftModel:
    torch.manual_seed(5)
    return add_lora(model, rank=rank, alpha=alpha, dropout=dropout)


def train(adapted: PeftModel, images: Tensor) -> None:
    """Run two training steps, because the first one changes only the second matrix of each adapter."""
    optimizer = torch.optim.AdamW(parameter_groups(adapted, learning_rate=0.05, weight_decay=0.0))
    adapted.train()
    for _ in range(2):
        optimizer.zero_grad()
        adapted(pixel_values=images, labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()


def reloaded(base: PreTrainedModel, folder: Path) -> PeftModel:
    with warnings.catch_warnings():
        # peft 0.21 reads a property that transformers 5 has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("name", FAMILIES_WITH_ATTENTION)
def test_adapters_are_on_queries_and_values_and_do_not_change_the_logits(name: str, make: Make) -> None:
    model, images = make(name), pixels(name)
    before = logits(model, images)
    adapted = adapt(model)
    assert torch.equal(logits(adapted, images), before)
    names = {key for key, p in adapted.named_parameters() if p.requires_grad}
    head = {key for key in names if ".modules_to_save.default." in key}
    assert {key.rpartition(".")[2] for key in head} == {"weight", "bias"}
    assert all("lora_" in key for key in names - head)
    assert len(names - head) == 2 * PROJECTIONS[name]
    assert {key.partition(".lora_")[0].rpartition(".")[2] for key in names - head} in ({"q_proj", "v_proj"}, {"qkv"})


@pytest.mark.parametrize("name", FAMILIES_WITH_ATTENTION)
def test_training_changes_every_adapter_and_the_head_and_nothing_else(name: str, make: Make) -> None:
    adapted, images = adapt(make(name)), pixels(name)
    start = copy.deepcopy(adapted.state_dict())
    train(adapted, images)
    trained = {key for key, p in adapted.named_parameters() if p.requires_grad}
    assert differing(start, adapted.state_dict()) == trained


@pytest.mark.parametrize("name", FAMILIES_WITH_ATTENTION)
def test_a_merged_model_is_an_ordinary_model_with_the_same_logits(name: str, make: Make, tmp_path: Path) -> None:
    base, images = make(name), pixels(name)
    untouched, base_logits = base.state_dict(), logits(base, images)
    adapted = adapt(copy.deepcopy(base))
    train(adapted, images)
    trained_logits = logits(adapted, images)
    assert (trained_logits - base_logits).abs().max() > 1e-2
    state = copy.deepcopy(adapted.state_dict())

    model = merged(adapted)
    assert type(model) is type(base)
    assert not hasattr(model, "peft_config")
    assert [(key, weight.shape) for key, weight in model.state_dict().items()] == [
        (key, weight.shape) for key, weight in untouched.items()
    ]
    torch.testing.assert_close(logits(model, images), trained_logits, atol=1e-5, rtol=0)
    assert len(differing(model.state_dict(), untouched)) == PROJECTIONS[name] + len(head_names(base))
    assert not differing(state, adapted.state_dict())
    assert torch.equal(logits(adapted, images), trained_logits)

    base.save_pretrained(tmp_path / "untouched")
    model.save_pretrained(tmp_path / "merged")
    files = [sorted(path.name for path in (tmp_path / folder).iterdir()) for folder in ("untouched", "merged")]
    assert files[0] == files[1]
    assert (tmp_path / "merged/config.json").read_text() == (tmp_path / "untouched/config.json").read_text()
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(loaded, images), logits(model, images))


@pytest.mark.parametrize("name", FAMILIES_WITH_ATTENTION)
def test_unwrapping_restores_the_given_model(name: str, make: Make) -> None:
    model, images = make(name), pixels(name)
    modules = {key: type(module) for key, module in model.named_modules()}
    adapted = adapt(model)
    train(adapted, images)
    trained_logits = logits(adapted, images)
    assert unwrap(adapted) is model
    assert {key: type(module) for key, module in model.named_modules()} == modules
    torch.testing.assert_close(logits(model, images), trained_logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES_WITH_ATTENTION)
def test_base_with_saved_adapter_has_the_logits_of_the_merged_model(name: str, make: Make, tmp_path: Path) -> None:
    base, images = make(name), pixels(name)
    adapted = adapt(copy.deepcopy(base))
    train(adapted, images)
    save_adapter(adapted, tmp_path / "adapter", base_name="owner/base", revision="v1")
    files = {path.name: path for path in (tmp_path / "adapter").iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    assert files["adapter_model.safetensors"].stat().st_mode & 0o777 == 0o644
    config = json.loads(files["adapter_config.json"].read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/base", "v1")
    for path in files.values():
        assert b"/tmp" not in path.read_bytes()
        assert str(tmp_path.parent).encode() not in path.read_bytes()
    torch.testing.assert_close(
        logits(reloaded(base, tmp_path / "adapter").eval(), images), logits(merged(adapted), images), atol=1e-5, rtol=0
    )


def test_a_folder_that_cannot_be_written_is_explained(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    adapted = adapt(make("vit b/16"))
    with pytest.raises(PipelineError, match=r"cannot write the adapter to .*: Not a directory"):
        save_adapter(adapted, tmp_path / "file" / "adapter", base_name="owner/base", revision="main")


def test_scale_is_alpha_over_rank(make: Make) -> None:
    model, images = make("vit b/16"), pixels("vit b/16")
    adapted = adapt(model, rank=2, alpha=6)
    train(adapted, images)
    name = "vit.layers.0.attention.q_proj"
    layer = adapted.get_base_model().get_submodule(name)
    a, b = layer.get_parameter("lora_A.default.weight"), layer.get_parameter("lora_B.default.weight")
    assert (a.shape, b.shape) == ((2, 32), (32, 2))
    expected = make("vit b/16").get_parameter(f"{name}.weight") + 3 * b @ a
    torch.testing.assert_close(merged(adapted).get_parameter(f"{name}.weight"), expected)


def test_dropout_is_active_in_training_only(make: Make) -> None:
    images = pixels("vit b/16")
    adapted = adapt(make("vit b/16"), dropout=0.5)
    train(adapted, images)
    first, second = (adapted.train()(pixel_values=images).logits for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(logits(adapted, images), logits(adapted, images))
    torch.testing.assert_close(logits(adapted, images), logits(merged(adapted), images), atol=1e-5, rtol=0)


def test_the_number_of_trained_parameters_is_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    model = make("vit b/16")
    total = sum(p.numel() for p in model.parameters())
    caplog.clear()  # building the network logs too
    with caplog.at_level(logging.INFO, logger=lora.__name__):
        adapt(model, rank=16)
    adapters, head = 4 * 2 * 16 * 32, 3 * 32 + 3
    percent = 100 * (adapters + head) / (total + adapters)
    assert caplog.messages == [f"LoRA rank 16 on 4 projections; training 0.0 M of 0.0 M parameters ({percent:.1f}%)"]


@pytest.mark.parametrize("name", ["resnet", "convnext", "timm resnet"])
def test_a_convolutional_network_is_rejected_and_not_changed(name: str, make: Make) -> None:
    model = make(name)
    with pytest.raises(
        PipelineError, match=r"no query and value projections .*: use --strategy full or --strategy head$"
    ):
        adapt(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_network_that_would_skip_the_adapters_is_rejected(tmp_path: Path) -> None:
    network = timm.create_model(
        "beit_base_patch16_224", num_classes=5, img_size=32, embed_dim=32, depth=1, num_heads=2, pretrained=False
    )
    save_for_hf(
        network,
        str(tmp_path),
        model_args={"img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2},
        data_config={"input_size": (3, 32, 32)},
        safe_serialization=True,
    )
    with pytest.raises(PipelineError, match="no query and value projections for adapters"):
        adapt(build(tmp_path))


def test_batch_norm_statistics_do_not_change_because_an_adapter_does_not_contain_them() -> None:
    torch.manual_seed(0)
    config = MobileViTConfig(hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 8], image_size=64)
    config.num_labels = 3
    adapted = adapt(AutoModelForImageClassification.from_config(config))
    start = copy.deepcopy(adapted.state_dict())
    adapted.train()(pixel_values=torch.randn(2, 3, 64, 64))
    assert any(key.endswith("running_mean") for key in start)
    assert not differing(start, adapted.state_dict())
