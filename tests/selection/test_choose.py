"""How `--auto` combines its rules with the flags of the user."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import timm
from timm.models import save_for_hf

from pipeline import config
from pipeline.arguments.settings import Settings
from pipeline.data.report import LoadedSplits
from pipeline.data.sources import load_splits
from pipeline.selection import auto
from pipeline.selection.candidates import Correct, candidates, resolutions
from pipeline.selection.choose import _choose_resolution, _with, choose_settings
from pipeline.selection.settings import read_settings
from pipeline.training.compatibility import needs_linear_head
from tests.selection.test_candidates import SMALL, probe

SECONDS_PER_EPOCH = {"slow": 3600.0, "fast": 1e-3}


def settings_of(
    monkeypatch: pytest.MonkeyPatch, photos: Path, model: Path, flags: Sequence[str], *, machine: str
) -> Settings:
    """Return what `--auto` chooses on a machine on which an epoch takes as long as stated above."""
    words = ["--auto", f"--model_name_or_path={model}", f"--dataset_name={photos}", "--output_dir=nowhere", *flags]
    line = config.read_command_line("train", words)
    splits = load_splits(read_settings(line).data)
    seconds = SECONDS_PER_EPOCH[machine] / len(splits["train"])
    monkeypatch.setattr(auto, "expected_image_seconds", lambda *_, **__: seconds)

    def attempt(*_: Any) -> NoReturn:
        raise AssertionError("the images of this test are too few for trials")

    return choose_settings(line, splits, attempt=attempt).settings


@pytest.mark.parametrize("flags", [["--strategy=full"], ["--layer_decay=0.5"], ["--mixup=0.3"]])
def test_flags_that_need_full_fine_tuning_get_all_its_settings_on_a_slow_machine(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tiny_vit: Path, flags: Sequence[str], caplog: Any
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    slow, fast = (
        settings_of(monkeypatch, photos, tiny_vit, flags, machine=machine).resolved() for machine in ("slow", "fast")
    )
    assert (slow.pop("num_train_epochs"), fast.pop("num_train_epochs")) == (50, 100)
    assert slow == fast
    assert (slow["strategy"], slow["weight_decay"]) == ("full", 0.05)
    assert "other strategies" not in caplog.text
    assert ("auto: --strategy full: your flags fix it" in caplog.text) == ("--strategy=full" not in flags)


def test_a_slow_machine_fits_a_probe_unless_the_user_asks_for_epochs(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tiny_vit: Path
) -> None:
    assert settings_of(monkeypatch, photos, tiny_vit, [], machine="slow").strategy.strategy == "head"
    trained = settings_of(monkeypatch, photos, tiny_vit, ["--num_train_epochs=0.5"], machine="slow")
    assert trained.strategy.strategy == "full"
    assert (trained.trainer.num_train_epochs, trained.strategy.layer_decay) == (0.5, 0.85)


@pytest.mark.parametrize("machine", ["slow", "fast"])
def test_a_network_with_two_heads_is_fine_tuned_without_probes(
    monkeypatch: pytest.MonkeyPatch, photos: Path, two_heads: Path, machine: str
) -> None:
    settings = settings_of(monkeypatch, photos, two_heads, [], machine=machine)
    assert settings.strategy.strategy == "full"
    assert not needs_linear_head(settings)


def test_a_timm_checkpoint_without_a_head_gets_a_linear_one(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path
) -> None:
    network = timm.create_model("test_vit", num_classes=0)
    save_for_hf(network, str(tmp_path / "timm"), safe_serialization=True)
    settings = settings_of(monkeypatch, photos, tmp_path / "timm", [], machine="fast")
    assert settings.selection.refit_head


@pytest.mark.parametrize(("flags", "mixup"), [([], 0.8), (["--refit_head=False"], 0.5)])
def test_without_a_refitted_head_mixup_is_weaker(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tiny_vit: Path, flags: Sequence[str], mixup: float
) -> None:
    settings = settings_of(monkeypatch, photos, tiny_vit, flags, machine="fast")
    assert (settings.images.mixup, settings.selection.refit_head) == (mixup, not flags)


def test_the_expected_time_is_that_of_the_epochs_of_the_user(
    monkeypatch: pytest.MonkeyPatch, photos: Path, tiny_vit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    settings_of(monkeypatch, photos, tiny_vit, ["--num_train_epochs=60000"], machine="fast")
    assert "auto: --strategy full: about 1 min on this machine" in caplog.text


@pytest.mark.parametrize(("minutes", "tried"), [(6, False), (3, True)])
def test_trials_use_the_time_that_the_training_leaves(
    monkeypatch: pytest.MonkeyPatch,
    make_folder: Callable[..., Path],
    tiny_vit: Path,
    minutes: float,
    tried: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger="pipeline")
    photos = make_folder(train=12, validation=20, test=4)
    words = ["--auto", f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", "--output_dir=nowhere"]
    line = config.read_command_line("train", [*words, "--num_train_epochs=40", "--dataloader_num_workers=0"])
    splits = load_splits(read_settings(line).data)
    facts = auto.gather(read_settings(line).model, read_settings(line).trainer, splits)
    seconds = 60 * minutes / (40 * len(splits["train"]))
    cpu = dataclasses.replace(facts, device="cpu", gpu_memory=None, image_seconds=seconds)
    monkeypatch.setattr(auto, "gather", lambda *_: cpu)
    lengths = []

    def attempt(_: Settings, __: LoadedSplits, epochs: int) -> Correct:
        lengths.append(epochs)
        return np.zeros(len(splits["validation"]), dtype=bool)

    chosen = choose_settings(line, splits, attempt=attempt)
    assert len(chosen.trials) == len(lengths)
    assert set(lengths) == ({20} if tried else set())
    assert ("auto: no trials: two of 20 epochs and the training would take over 10 minutes" in caplog.text) != tried


@pytest.mark.parametrize(
    ("accuracies", "convolutional", "chosen"),
    [
        ({32: 0.3, 48: 0.35, 64: 0.4}, False, ["--image_size=48", "--patch_drop_rate=0.56"]),
        ({32: 0.3, 48: 0.301}, False, []),  # within one standard error
        ({32: 0.3, 64: 0.4}, False, []),  # drops too many patches
        ({32: 0.3, 48: 0.35}, True, []),  # a step at a higher resolution takes longer
        ({}, False, []),
    ],
)
def test_probes_choose_the_resolution_where_nothing_can_be_tried(
    accuracies: dict[int, float], convolutional: bool, chosen: list[str], tiny_vit: Path, photos: Path
) -> None:
    facts = dataclasses.replace(SMALL, convolutional=convolutional)
    probes = [probe(size, accuracy) for size, accuracy in accuracies.items()]
    words = ["--auto", f"--model_name_or_path={tiny_vit}", f"--dataset_name={photos}", "--output_dir=nowhere"]
    for fixed in ([], ["--patch_drop_rate=0.1"]):
        line = config.read_command_line("train", words + fixed)
        usable = [each for each in candidates(facts, {}, probes) if _with(line, {}, each) is not None]
        changed = _choose_resolution(line, {}, usable, resolutions(facts, probes))
        assert list(changed.chosen) == ([] if fixed else chosen)
