import copy
import dataclasses
import warnings

import pytest
import torch
from transformers import TrainingArguments
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)

from pipeline.arguments.inherited import REJECTED
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import PipelineError
from pipeline.performance import machine

# The Trainer's arguments that mean here what they mean there. A name that a new transformers adds is in neither list,
# and somebody must decide.
SUPPORTED = frozenset({
    "output_dir", "per_device_train_batch_size", "num_train_epochs", "max_steps", "learning_rate",
    "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "optim_target_modules", "gradient_accumulation_steps",
    "average_tokens_across_devices", "max_grad_norm", "label_smoothing_factor", "tf32", "activation_checkpointing",
    "activation_checkpointing_kwargs", "torch_compile", "torch_compile_backend", "torch_compile_mode",
    "torch_empty_cache_steps", "logging_strategy", "logging_steps", "logging_first_step", "log_on_each_node",
    "log_level", "log_level_replica", "disable_tqdm", "report_to", "run_name", "project", "trackio_space_id",
    "trackio_bucket_id", "trackio_static_space_id", "eval_strategy", "eval_steps", "eval_delay",
    "per_device_eval_batch_size", "eval_on_start", "eval_accumulation_steps", "save_strategy", "save_steps",
    "save_total_limit", "push_to_hub", "hub_private_repo", "hub_model_id", "hub_revision", "hub_strategy",
    "metric_for_best_model", "greater_is_better", "full_determinism", "seed", "data_seed", "use_cpu",
    "dataloader_drop_last",
    "dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor",
    "dataloader_multiprocessing_context", "dataloader_in_order", "ddp_find_unused_parameters", "ddp_bucket_cap_mb",
    "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout", "debug", "skip_memory_metrics",
    "auto_find_batch_size",
})  # fmt: skip


def test_every_argument_of_the_trainer_is_supported_or_fixed_with_a_reason() -> None:
    names = {f.name for f in dataclasses.fields(TrainingArguments)}
    assert not SUPPORTED & REJECTED.keys()
    assert names == SUPPORTED | REJECTED.keys()


@pytest.mark.parametrize("name", sorted(REJECTED))
def test_a_fixed_argument_is_refused_with_its_reason(name: str) -> None:
    fields = {f.name: f for f in dataclasses.fields(FineTuningArguments)}
    default = fields[name].default
    other: object = not default if isinstance(default, bool) else "other"
    with pytest.raises(PipelineError) as caught:
        FineTuningArguments(**{name: other})  # type: ignore[arg-type]
    assert REJECTED[name] in str(caught.value)


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(PipelineError) as caught:
        FineTuningArguments(do_predict=True, warmup_steps=1, metric_for_best_model="f1")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("flag", "accelerate", "cpu_has_bf16", "expected"),
    [
        ("fp32", "bf16", True, "fp32"),
        ("auto", "bf16", False, "bf16"),
        ("auto", "no", True, "bf16"),
        ("auto", "no", False, "fp32"),
    ],
)
def test_a_flag_beats_accelerate_which_beats_the_machine(
    monkeypatch: pytest.MonkeyPatch, flag: str, accelerate: str, cpu_has_bf16: bool, expected: str
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", accelerate)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu_has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    args = FineTuningArguments(precision=flag, use_cpu=True)  # type: ignore[arg-type]
    assert args.precision == expected
    assert args.bf16 is (expected == "bf16")
    assert expected in args.describe()


@pytest.mark.parametrize(
    ("total", "device", "expected"),
    [(64, 16, (16, 4)), (512, 32, (32, 16)), (20, 16, (10, 2)), (8, 16, (8, 1))],
)
def test_the_global_batch_fixes_batch_and_accumulation(total: int, device: int, expected: tuple[int, int]) -> None:
    args = FineTuningArguments(global_batch_size=total, per_device_train_batch_size=device)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected
    assert "gradient_accumulation_steps" not in args.resolved()


@pytest.mark.parametrize(("on_cpu", "expected"), [(True, (16, 8)), (False, (128, 1))])
def test_a_gpu_takes_its_share_of_the_global_batch_in_one_pass(on_cpu: bool, expected: tuple[int, int]) -> None:
    with_device = FineTuningArguments(global_batch_size=128)
    assert not with_device.finds_batch_size  # the tests run on a CPU
    args = copy.copy(with_device)
    args.use_cpu = on_cpu
    args.per_device_train_batch_size = 16
    args._fit_global_batch()
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == expected
    assert args.finds_batch_size is not on_cpu
    assert not {"per_device_train_batch_size", "auto_find_batch_size"} & args.resolved().keys()


def test_a_global_batch_that_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FineTuningArguments, "world_size", 3)
    with pytest.raises(PipelineError, match="is not a multiple of the number of processes: use a multiple of 3"):
        FineTuningArguments(global_batch_size=64)


def test_workers_are_chosen_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.performance.machine.usable_cores", lambda: 16)
    assert machine.default_workers(on_cpu=False) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert machine.default_workers(on_cpu=False) == 3
    assert FineTuningArguments(dataloader_num_workers=0).dataloader_persistent_workers is False


def test_the_resolved_arguments_build_the_same_arguments() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = FineTuningArguments(learning_rate=2e-4, optim="sgd", optim_args="momentum=0.9", precision="fp32")
        again = FineTuningArguments(**first.resolved())
    assert again.resolved() == first.resolved()
    assert first.resolved()["optim_args"] == "momentum=0.9"


def test_a_tracker_that_is_unknown_or_not_installed_is_refused() -> None:
    with pytest.raises(PipelineError, match=r"--report_to wandbb is unknown \(did you mean 'wandb'\?\)"):
        FineTuningArguments(report_to=["wandbb"])
    installed = get_available_reporting_integrations()
    missing = next(name for name in INTEGRATION_TO_CALLBACK if name not in installed)
    with pytest.raises(PipelineError, match=f"--report_to {missing} is not installed: run `pip install {missing}`"):
        FineTuningArguments(report_to=[missing])


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_a_launch_that_splits_the_network_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(PipelineError, match=rf"a launch with {name} .*use distributed_type MULTI_GPU"):
        FineTuningArguments(use_cpu=True)
