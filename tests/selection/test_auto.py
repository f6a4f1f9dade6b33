"""What `--recipe auto` chooses, from facts; that it reaches a run is in `tests/commands/test_train.py`."""

import dataclasses
from typing import Any

import pytest

from pipeline.arguments import images, model, strategy
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.selection.auto import Choice, Facts, choose

FLAGS = {
    f.name
    for c in (
        model.ModelArguments,
        images.AugmentationArguments,
        strategy.AdaptationArguments,
        FineTuningArguments,
    )
    for f in dataclasses.fields(c)
}

# ViT-B/16 at 224 px and 1,020 images, on one GPU.
BASE = Facts(
    images=1020,
    classes=102,
    parameters=86_000_000,
    convolutional=False,
    from_scratch=False,
    image_size=224,
    step_flops=105e9,
    flops_a_second=400e12,
    precision="bf16",
    device="cuda",
    gpu_memory=40 * 10**9,
)


def chosen(**changes: Any) -> dict[str, Choice]:
    return {choice.flag: choice for choice in choose(dataclasses.replace(BASE, **changes))}


@pytest.mark.parametrize("changes", [{}, {"device": "cpu", "gpu_memory": None, "flops_a_second": 3e11}])
def test_each_choice_is_a_flag_with_a_reason_in_one_line(changes: dict[str, Any]) -> None:
    for choice in chosen(**changes).values():
        assert choice.flag in FLAGS
        assert choice.reason
        assert str(choice) == f"--{choice.flag} {choice.value}: {choice.reason}"
        assert "\n" not in str(choice)


def test_a_gpu_fine_tunes_all_and_two_cores_take_the_probe() -> None:
    assert chosen()["strategy"].value == "full"
    slow = chosen(device="cpu", gpu_memory=None, flops_a_second=3e11)
    assert slow["strategy"].value == "head"
    assert "would take about 6 h" in slow["strategy"].reason
    assert chosen(device="cpu", gpu_memory=None, flops_a_second=3e11, step_flops=2e9)["strategy"].value == "full"


def test_what_does_not_fit_into_memory_gets_adapters() -> None:
    assert chosen(parameters=1_100_000_000, gpu_memory=24 * 10**9)["strategy"].value == "lora"
    assert "layer_decay" not in chosen(parameters=1_100_000_000, gpu_memory=24 * 10**9)


def test_random_weights_are_trained_all_of_them() -> None:
    scratch = chosen(from_scratch=True, device="cpu", gpu_memory=None, flops_a_second=3e11)
    assert scratch["strategy"].value == "full"
    assert not {"head_init", "layer_decay"} & scratch.keys()


def test_more_images_take_fewer_epochs_and_stronger_augmentation() -> None:
    epochs = [int(str(chosen(images=102 * n)["num_train_epochs"].value)) for n in (10, 50, 500, 5000)]
    assert epochs == sorted(epochs, reverse=True)
    assert len(set(epochs)) == 4
    assert chosen()["augmentation"].value == "basic"
    assert chosen(images=102_000)["augmentation"].value == "trivial"


@pytest.mark.parametrize(("images", "batch"), [(20, 2), (160, 16), (1020, 32), (50_000, 128)])
def test_an_epoch_has_ten_steps_where_there_are_images_for_them(images: int, batch: int) -> None:
    assert chosen(images=images, classes=2)["global_batch_size"].value == batch


def test_a_gpu_takes_the_batch_in_one_pass_where_it_fits() -> None:
    gpu, cpu = chosen(images=50_000), chosen(device="cpu", gpu_memory=None)
    assert gpu["per_device_train_batch_size"].value == gpu["global_batch_size"].value == 128
    assert gpu["auto_find_batch_size"].word == "--auto_find_batch_size=True"
    assert not {"per_device_train_batch_size", "auto_find_batch_size"} & cpu.keys()


def test_a_pretrained_backbone_never_gets_a_rate_that_wrecks_it_without_layer_decay() -> None:
    for parameters in (2_000_000, 86_000_000, 300_000_000):
        rates = chosen(parameters=parameters)
        assert float(str(rates["layer_decay"].value)) < 1
        assert float(str(rates["learning_rate"].value)) <= (1e-4 if parameters > 10e6 else 2e-3)


def test_a_small_network_gets_what_measured_better_for_it_and_a_large_one_a_probes_head() -> None:
    small, large = chosen(parameters=2_700_000), chosen()
    assert {"mixup", "ema_decay", "label_smoothing_factor"} <= small.keys() - large.keys()
    assert large["head_init"].value == "probe"
    assert "head_init" not in small
