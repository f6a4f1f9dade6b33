"""Each flag of strategy, images and objective has its effect, and a resumed run equals an uninterrupted one."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTForImageClassification

from pipeline.arguments.model import ModelArguments
from pipeline.errors import PipelineError
from pipeline.models.build import build_classifier
from pipeline.runs.checkpoints import TRAINING_WEIGHTS
from pipeline.runs.folder import ADAPTER
from tests.training.fitting import COLORS, Fitted, checkpoints, same, settings_of, stored

Run = Callable[..., Fitted]

EACH_FOUR = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"ema_decay": 0.8},
        {"strategy": "lora", "lora_rank": 4},
        {"strategy": "lora", "lora_rank": 4, "ema_decay": 0.8},
        {"mixup": 0.8, "cutmix": 1.0},
        {"balanced_sampling": True},
        {"layer_decay": 0.5, "freeze_blocks": 1, "random_erasing": 0.5},
        {"patch_drop_rate": 0.5, "strategy": "lora"},
    ],
    ids="+".join,
)
def test_a_resumed_run_equals_an_uninterrupted_one(fitted: Run, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole = fitted("whole", **EACH_FOUR, **changes, save_total_limit=None)
    for step in (4, 8):
        shutil.copytree(whole.folder / f"checkpoint-{step}", tmp_path / "parts" / f"checkpoint-{step}")
    parts = fitted("parts", **EACH_FOUR, **changes, save_total_limit=None)
    assert len(parts.seen) == 18 - 8
    assert parts.log("loss") == whole.log("loss")
    assert parts.log("eval_loss") == whole.log("eval_loss")
    assert same(dict(whole.model.state_dict()), dict(parts.model.state_dict()))
    for step in (12, 18):
        for file in (whole.folder / f"checkpoint-{step}").glob("*.safetensors"):
            assert file.read_bytes() == (parts.folder / f"checkpoint-{step}" / file.name).read_bytes()


def test_the_average_is_scored_saved_and_returned(fitted: Run) -> None:
    plain = fitted("plain", save_total_limit=None)
    averaged = fitted("averaged", save_total_limit=None, ema_decay=0.9)
    assert averaged.log("loss") == plain.log("loss")  # training itself is the same
    assert averaged.log("eval_loss") != plain.log("eval_loss")
    step = averaged.state["best_global_step"]
    assert same(dict(averaged.model.state_dict()), stored(averaged.folder / f"checkpoint-{step}"))
    own = load_file(averaged.folder / "checkpoint-18" / TRAINING_WEIGHTS)
    trained = {name.removeprefix("trained."): w for name, w in own.items() if name.startswith("trained.")}
    assert same(trained, stored(plain.folder / "checkpoint-18"))
    average = {name.removeprefix("average."): w for name, w in own.items() if name.startswith("average.")}
    assert same(average, stored(averaged.folder / "checkpoint-18"))


def test_lora_trains_adapters_and_returns_a_merged_network(fitted: Run, dropping_vit: Path, tmp_path: Path) -> None:
    before = dict(build_classifier(ModelArguments(str(dropping_vit)), class_names=COLORS, seed=42).model.state_dict())
    done = fitted(strategy="lora", lora_rank=4, learning_rate=1e-2, num_train_epochs=5)
    assert max(done.log("eval_accuracy")) > 0.8
    after = dict(done.model.state_dict())
    assert after.keys() == before.keys()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved == {
        f"vit.layers.{i}.attention.{which}_proj.weight" for i in (0, 1) for which in "qv"
    } | {"classifier.weight", "classifier.bias"}  # fmt: skip
    done.model.save_pretrained(tmp_path / "saved")
    again = ViTForImageClassification.from_pretrained(tmp_path / "saved").eval()
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.equal(again(pixels).logits, done.model.eval()(pixels).logits)
    assert not (done.folder / ADAPTER).exists()


def test_a_saved_adapter_on_its_base_equals_the_merged_network(fitted: Run, dropping_vit: Path) -> None:
    from peft import PeftModel

    done = fitted(strategy="lora", keep_adapter=True, num_train_epochs=2)
    base = build_classifier(ModelArguments(str(dropping_vit)), class_names=COLORS, seed=42).model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)  # peft 0.21
        adapted = PeftModel.from_pretrained(base, done.folder / ADAPTER).eval()
    pixels = torch.randn(2, 3, 16, 16)
    assert torch.allclose(adapted(pixel_values=pixels).logits, done.model.eval()(pixels).logits, atol=1e-5)


def test_frozen_blocks_do_not_change_and_the_others_do(fitted: Run, dropping_vit: Path) -> None:
    untrained = build_classifier(ModelArguments(str(dropping_vit)), class_names=COLORS, seed=42).model
    before = dict(untrained.named_parameters())
    done = fitted(freeze_blocks=1)
    for name, weight in done.model.named_parameters():
        assert torch.equal(weight, before[name]) == name.startswith(("vit.embeddings", "vit.layers.0")), name


def test_the_learning_rate_decays_by_block_and_the_head_can_have_another(fitted: Run) -> None:
    done = fitted(layer_decay=0.5, head_learning_rate=0.1, weight_decay=0.1, num_train_epochs=1)
    saved = torch.load(done.folder / "checkpoint-6" / "optimizer.pt", weights_only=True)  # noqa: TID251 (the Trainer's)
    rates = {round(group["initial_lr"], 9) for group in saved["param_groups"]}
    assert rates == {0.1, 3e-3, 1.5e-3, 7.5e-4, 3.75e-4}
    assert {group["weight_decay"] for group in saved["param_groups"]} == {0.0, 0.1}


def test_label_smoothing_changes_the_training_loss_only(fitted: Run) -> None:
    first = fitted("plain", max_steps=1, warmup_steps=10)
    smooth = fitted("smooth", max_steps=1, warmup_steps=10, label_smoothing_factor=0.3)
    assert smooth.log("loss") != first.log("loss")
    assert smooth.log("eval_loss") == pytest.approx(
        first.log("eval_loss"), rel=1e-6
    )  # the learning rate of this step is 0


@pytest.mark.parametrize(
    "flags", [{"mixup": 0.8}, {"cutmix": 1.0}, {"random_erasing": 1.0}], ids=lambda f: next(iter(f))
)
def test_mixup_cutmix_and_erasing_reach_the_network(fitted: Run, flags: dict[str, float]) -> None:
    plain, other = fitted("plain", max_steps=2), fitted("other", max_steps=2, **flags)
    assert not any(torch.equal(*pair) for pair in zip(plain.seen, other.seen, strict=True))


def test_patch_dropout_changes_training_and_not_scoring(fitted: Run) -> None:
    plain = fitted("plain", max_steps=1, warmup_steps=10)
    fewer = fitted("fewer", max_steps=1, warmup_steps=10, patch_drop_rate=0.5)
    assert fewer.log("loss") != plain.log("loss")
    assert fewer.log("eval_loss") == pytest.approx(
        plain.log("eval_loss"), rel=1e-6
    )  # the learning rate of this step is 0
    whole = fitted("whole", num_train_epochs=1).metrics["speed"]["gflops_per_image"]
    assert fitted("half", num_train_epochs=1, patch_drop_rate=0.5).metrics["speed"]["gflops_per_image"] < 0.7 * whole


@pytest.fixture(scope="module")
def skewed(splits: datasets.DatasetDict) -> datasets.DatasetDict:
    """Training images: twelve blue, twelve green, two red."""
    return datasets.DatasetDict(splits | {"train": splits["train"].select(range(26))})


def test_balanced_sampling_samples_a_small_class_as_often_as_the_others(
    fitted: Run, skewed: datasets.DatasetDict
) -> None:
    def share_of_red(run: Fitted) -> float:
        means = torch.cat(run.seen).mean(dim=(2, 3))
        return float((means.argmax(1) == 0).float().mean())

    assert share_of_red(fitted("plain", data=skewed)) == pytest.approx(2 / 26, abs=0.01)
    assert 0.2 < share_of_red(fitted("balanced", data=skewed, balanced_sampling=True)) < 0.5


def test_class_weights_change_the_training_loss(fitted: Run, skewed: datasets.DatasetDict) -> None:
    plain, weighed = fitted("a", data=skewed), fitted("b", data=skewed, class_weights="balanced")
    assert plain.log("loss") != weighed.log("loss")


def test_max_hours_stops_scores_and_saves(fitted: Run) -> None:
    done = fitted(max_hours=1e-9)
    assert done.state["global_step"] == 1
    assert checkpoints(done.folder) == [1]
    assert len(done.log("eval_accuracy")) == 1


def test_every_log_line_has_the_data_wait(fitted: Run) -> None:
    done = fitted()
    assert len(done.log("data_wait")) == len(done.log("loss"))
    assert all(0 <= share < 1 for share in done.log("data_wait"))
    assert max(done.log("images_per_second")) > 0
    elapsed = [row["elapsed"] for row in done.state["log_history"]]
    assert elapsed == sorted(elapsed)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixup": 0.8, "per_device_train_batch_size": 1}, r"^--mixup blends .* raise --per_device_train_batch_size"),
        ({"layer_decay": 0.0}, r"^--layer_decay 0\.0 is out of range"),
        ({"ema_decay": 1.0, "lora_rank": 0}, r"^--lora_rank 0 is out of range.*\n--ema_decay 1\.0 is out of range"),
        ({"strategy": "lora", "layer_decay": 0.8}, r"^--strategy lora does not train the blocks"),
        ({"keep_adapter": True}, r"^--keep_adapter .*add --strategy lora"),
        (
            {"strategy": "lora", "keep_adapter": True, "refit_head": True},
            r"^--keep_adapter saves the trained head, which --refit_head replaces: add --refit_head False$",
        ),
        ({"class_weights": "balanced", "balanced_sampling": True}, r"remove one of them"),
        (
            {"balanced_sampling": True, "refit_head": True},
            r"^--refit_head ignores class balancing: add --refit_head False$",
        ),
        ({"max_hours": 0}, r"^--max_hours 0 is out of range: use a value of more than 0"),
        ({"patch_drop_rate": 1}, r"^--patch_drop_rate 1 is out of range"),
    ],
)
def test_invalid_settings_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        settings_of(**changes)
