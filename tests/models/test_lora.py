"""Adapters on every family: what they change, what a merged model is, and what is saved."""

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

# A family with attention -> its projections.
PROJECTIONS = {
    "vit b/16": 4, "deit": 4, "swin": 6, "beit": 4, "dinov2": 4, "siglip": 4, "clip": 4, "timm vit": 6,
}  # fmt: skip
TRANSFORMERS = list(PROJECTIONS)


def pixels(name: str) -> Tensor:
    size = FAMILIES[name].size
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1))


def adapt(model: PreTrainedModel, *, rank: int = 2, alpha: int = 4, dropout: float = 0.0) -> PeftModel:
    torch.manual_seed(5)
    return add_lora(model, rank=rank, alpha=alpha, dropout=dropout)


def train(adapted: PeftModel, images: Tensor) -> None:
    """Two steps that move the logits far: the first moves only the half of an adapter that starts at zero."""
    optimizer = torch.optim.AdamW(parameter_groups(adapted, learning_rate=0.05, weight_decay=0.0))
    adapted.train()
    for _ in range(2):
        optimizer.zero_grad()
        adapted(pixel_values=images, labels=torch.tensor([0, 1, 2])).loss.backward()
        optimizer.step()


def reloaded(base: PreTrainedModel, folder: Path) -> PeftModel:
    with warnings.catch_warnings():
        # peft 0.21 asks for a property that transformers 5 has renamed.
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        return PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_adapters_stand_on_queries_and_values_and_change_nothing_yet(name: str, make: Make) -> None:
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


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_training_moves_every_adapter_and_the_head_and_nothing_else(name: str, make: Make) -> None:
    adapted, images = adapt(make(name)), pixels(name)
    start = copy.deepcopy(adapted.state_dict())
    train(adapted, images)
    trained = {key for key, p in adapted.named_parameters() if p.requires_grad}
    assert differing(start, adapted.state_dict()) == trained


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_merged_model_is_ordinary_and_answers_alike(name: str, make: Make, tmp_path: Path) -> None:
    base, images = make(name), pixels(name)
    untouched, plain = base.state_dict(), logits(base, images)
    adapted = adapt(copy.deepcopy(base))
    train(adapted, images)
    learnt = logits(adapted, images)
    assert (learnt - plain).abs().max() > 1e-2
    state = copy.deepcopy(adapted.state_dict())

    model = merged(adapted)
    assert type(model) is type(base)
    assert not hasattr(model, "peft_config")
    assert [(key, weight.shape) for key, weight in model.state_dict().items()] == [
        (key, weight.shape) for key, weight in untouched.items()
    ]
    torch.testing.assert_close(logits(model, images), learnt, atol=1e-5, rtol=0)
    assert len(differing(model.state_dict(), untouched)) == PROJECTIONS[name] + len(head_names(base))
    assert not differing(state, adapted.state_dict())
    assert torch.equal(logits(adapted, images), learnt)

    base.save_pretrained(tmp_path / "untouched")
    model.save_pretrained(tmp_path / "merged")
    files = [sorted(path.name for path in (tmp_path / kind).iterdir()) for kind in ("untouched", "merged")]
    assert files[0] == files[1]
    assert (tmp_path / "merged/config.json").read_text() == (tmp_path / "untouched/config.json").read_text()
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits(again, images), logits(model, images))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_unwrapped_the_given_model_is_ordinary_again(name: str, make: Make) -> None:
    model, images = make(name), pixels(name)
    modules = {key: type(module) for key, module in model.named_modules()}
    adapted = adapt(model)
    train(adapted, images)
    learnt = logits(adapted, images)
    assert unwrap(adapted) is model
    assert {key: type(module) for key, module in model.named_modules()} == modules
    torch.testing.assert_close(logits(model, images), learnt, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_base_and_saved_adapter_answer_as_the_merged_model(name: str, make: Make, tmp_path: Path) -> None:
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


def test_a_folder_that_cannot_be_written_is_one_line(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    adapted = adapt(make("vit b/16"))
    with pytest.raises(PipelineError, match=r"cannot write the adapter into .*: Not a directory"):
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


def test_dropout_acts_in_training_only(make: Make) -> None:
    images = pixels("vit b/16")
    adapted = adapt(make("vit b/16"), dropout=0.5)
    train(adapted, images)
    one, two = (adapted.train()(pixel_values=images).logits for _ in range(2))
    assert not torch.equal(one, two)
    assert torch.equal(logits(adapted, images), logits(adapted, images))
    torch.testing.assert_close(logits(adapted, images), logits(merged(adapted), images), atol=1e-5, rtol=0)


def test_what_is_trained_is_said_in_one_line(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    model = make("vit b/16")
    total = sum(p.numel() for p in model.parameters())
    caplog.clear()  # of what making it said
    with caplog.at_level(logging.INFO, logger=lora.__name__):
        adapt(model, rank=16)
    adapters, head = 4 * 2 * 16 * 32, 3 * 32 + 3
    share = 100 * (adapters + head) / (total + adapters)
    assert caplog.messages == [f"LoRA rank 16 on 4 projections: 0.0 M of 0.0 M parameters are trained ({share:.1f} %)"]


@pytest.mark.parametrize("name", ["resnet", "convnext", "timm resnet"])
def test_a_convolutional_network_is_refused_and_left_as_it_was(name: str, make: Make) -> None:
    model = make(name)
    with pytest.raises(PipelineError, match=r"no attention projections .* take --strategy full or --strategy head$"):
        adapt(model)
    assert all(p.requires_grad for p in model.parameters())


def test_a_network_that_goes_past_its_projections_is_refused(tmp_path: Path) -> None:
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
    with pytest.raises(PipelineError, match="no attention projections that adapters fit"):
        adapt(build(tmp_path))


def test_batch_statistics_stay_so_that_base_and_adapter_are_all_there_is() -> None:
    torch.manual_seed(0)
    config = MobileViTConfig(hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 8, 8, 8, 8, 8], image_size=64)
    config.num_labels = 3
    adapted = adapt(AutoModelForImageClassification.from_config(config))
    start = copy.deepcopy(adapted.state_dict())
    adapted.train()(pixel_values=torch.randn(2, 3, 64, 64))
    assert any(key.endswith("running_mean") for key in start)
    assert not differing(start, adapted.state_dict())
