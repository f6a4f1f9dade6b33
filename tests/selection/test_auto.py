"""What `--auto` chooses from facts; `tests/workflows/test_train.py` tests that the choices reach a run."""

import dataclasses
from typing import Any

import pytest

from pipeline.arguments.settings import GROUPS
from pipeline.selection.auto import Choice, Facts, choose

FLAGS = {f.name for group in GROUPS for f in dataclasses.fields(group)}

# ViT-B/16 at 224 px and 1,020 images, on one GPU.
BASE = Facts(
    images=1020,
    classes=102,
    parameters=86_000_000,
    convolutional=False,
    from_scratch=False,
    image_size=224,
    image_seconds=1 / 2000,
    precision="bf16",
    device="cuda",
    gpu_memory=40 * 10**9,
)


def chosen(**changes: Any) -> dict[str, Choice]:
    return {choice.flag: choice for choice in choose(dataclasses.replace(BASE, **changes))}


@pytest.mark.parametrize("changes", [{}, {"device": "cpu", "gpu_memory": None, "image_seconds": 0.7}])
def test_each_choice_is_a_flag_with_a_reason_in_one_line(changes: dict[str, Any]) -> None:
    for choice in chosen(**changes).values():
        assert choice.flag in FLAGS
        assert choice.reason
        assert str(choice) == f"--{choice.flag} {choice.value}: {choice.reason}"
        assert "\n" not in str(choice)


def test_a_gpu_fine_tunes_all_weights_and_two_cores_fit_a_probe() -> None:
    assert chosen()["strategy"].value == "full"
    slow = chosen(device="cpu", gpu_memory=None, image_seconds=0.7)
    assert slow["strategy"].value == "head"
    assert "would take about 6 h" in slow["strategy"].reason
    assert chosen(device="cpu", gpu_memory=None, image_seconds=0.01)["strategy"].value == "full"


def test_a_model_too_large_for_the_memory_gets_adapters() -> None:
    assert chosen(parameters=1_100_000_000, gpu_memory=24 * 10**9)["strategy"].value == "lora"
    assert "layer_decay" not in chosen(parameters=1_100_000_000, gpu_memory=24 * 10**9)


def test_random_weights_are_trained_completely() -> None:
    scratch = chosen(from_scratch=True, device="cpu", gpu_memory=None, image_seconds=0.7)
    assert scratch["strategy"].value == "full"
    assert not {"head_init", "layer_decay"} & scratch.keys()


def test_more_images_get_fewer_epochs_and_stronger_augmentation() -> None:
    epochs = [chosen(images=102 * n)["num_train_epochs"].value for n in (2, 5, 10, 50, 500, 5000)]
    assert epochs == [100, 59, 30, 20, 10, 5]
    assert chosen()["augmentation"].value == "basic"
    assert chosen(images=102_000)["augmentation"].value == "trivial"


@pytest.mark.parametrize(
    ("minutes", "max_hours", "epochs"),
    [
        (9, None, 30),
        (15, None, 20),
        (40, None, 15),  # not less than half, although that takes 20 minutes
        (40, 1.0, 30),
        (60, 0.1, 3),  # a longer training would be cut off
        (60, 1e-4, 1),
    ],
)
def test_a_training_on_a_cpu_is_shortened_to_its_budget(minutes: float, max_hours: float | None, epochs: int) -> None:
    seconds = 60 * minutes / (30 * BASE.images)
    cpu = {"device": "cpu", "gpu_memory": None, "image_seconds": seconds, "max_hours": max_hours}
    assert chosen(**cpu)["num_train_epochs"].value == epochs
    assert ("would take about" in chosen(**cpu)["num_train_epochs"].reason) == (epochs < 30)
    assert chosen(**cpu, epochs=12)["num_train_epochs"].value == 12


def test_evaluations_count_as_a_third_of_the_training_on_as_many_images() -> None:
    alone = dataclasses.replace(BASE, validation_images=0)
    same = dataclasses.replace(BASE, validation_images=BASE.images)
    assert same.hours(5) == pytest.approx(4 / 3 * alone.hours(5))  # after each epoch
    assert same.hours(40) == pytest.approx((40 + 5 / 3) / 40 * alone.hours(40))  # five times


def test_a_training_on_a_gpu_is_shortened_only_by_max_hours() -> None:
    an_hour = 3600 / (30 * BASE.images)
    assert chosen(image_seconds=an_hour)["num_train_epochs"].value == 30
    assert chosen(image_seconds=an_hour, max_hours=0.5)["num_train_epochs"].value == 15


def test_a_long_training_is_scored_five_times_and_a_short_one_after_each_epoch() -> None:
    long, short = chosen(), chosen(images=510_000)
    assert [long["num_train_epochs"].value, short["num_train_epochs"].value] == [30, 5]
    assert (long["eval_steps"].value, long["save_steps"].value) == (0.2, 0.2)
    assert (long["eval_strategy"].value, long["save_strategy"].value) == ("steps", "steps")
    assert not {"eval_steps", "eval_strategy", "save_steps", "save_strategy"} & short.keys()


@pytest.mark.parametrize(("images", "batch"), [(20, 2), (160, 16), (1020, 32), (50_000, 128)])
def test_an_epoch_has_at_least_ten_steps_if_there_are_enough_images(images: int, batch: int) -> None:
    assert chosen(images=images, classes=2)["global_batch_size"].value == batch


def test_a_gpu_uses_no_gradient_accumulation_if_the_batch_fits() -> None:
    for choices in (chosen(images=50_000), chosen(images=50_000, device="cpu", gpu_memory=None)):
        assert choices["global_batch_size"].value == 128
        assert not {"per_device_train_batch_size", "auto_find_batch_size"} & choices.keys()  # the machine finds it


def test_a_high_learning_rate_always_comes_with_layer_decay() -> None:
    for parameters in (2_000_000, 86_000_000, 300_000_000):
        rates = chosen(parameters=parameters)
        assert float(str(rates["layer_decay"].value)) < 1
        assert float(str(rates["learning_rate"].value)) <= (1e-4 if parameters > 10e6 else 2e-3)


def test_a_small_network_gets_mixup_and_averaging_and_a_large_one_a_probe_head() -> None:
    small, large = chosen(parameters=2_700_000), chosen()
    # Mixup mixes labels, so small networks need the probes of the baseline to judge them.
    assert {"mixup", "baseline", "ema_decay", "label_smoothing_factor"} <= small.keys() - large.keys()
    assert large["head_init"].value == "probe"
    assert "head_init" not in small


@pytest.mark.parametrize("parameters", [2_700_000, 86_000_000])
def test_a_head_that_is_not_linear_gets_no_probes(parameters: int) -> None:
    changes: dict[str, Any] = {"parameters": parameters, "linear_head": False}
    assert not {"refit_head", "head_init", "baseline"} & chosen(**changes).keys()
    slow = chosen(device="cpu", gpu_memory=None, image_seconds=0.7, **changes)
    assert slow["strategy"].value == "full"


@pytest.mark.parametrize(("images", "judged"), [(20_000, True), (20_001, False)])
def test_probes_judge_the_labels_if_they_are_not_too_many(images: int, judged: bool) -> None:
    assert ("baseline" in chosen(parameters=2_700_000, images=images)) == judged


@pytest.mark.parametrize(
    ("images", "fixed", "mixup"), [(1020, None, 0.8), (1020, False, 0.5), (50_000, None, 0.5), (50_000, True, 0.8)]
)
def test_strong_mixup_comes_with_a_refitted_head(images: int, fixed: bool | None, mixup: float) -> None:
    choices = chosen(parameters=2_700_000, images=images, refit_head=fixed)
    assert choices["mixup"].value == mixup
    assert ("refit_head" in choices) == (mixup == 0.8)
