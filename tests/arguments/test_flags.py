"""A flag is declared once: its range, its role, and the checks of combinations."""

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from transformers import TrainingArguments

from pipeline.arguments import checks
from pipeline.arguments.data import DataArguments
from pipeline.arguments.flags import default_of, flags_of, flags_that_need_all_images
from pipeline.arguments.images import ImageArguments
from pipeline.arguments.inherited import NEUTRAL as INHERITED_NEUTRAL
from pipeline.arguments.inherited import NOT_IN_RECIPE, REJECTED
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.selection import SelectionArguments
from pipeline.arguments.settings import GROUPS, NEUTRAL, Settings
from pipeline.arguments.strategy import ObjectiveArguments, StrategyArguments
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.arguments.training import TrainingFlags
from pipeline.errors import PipelineError

TRAINER_FIELDS = {f.name: f for f in dataclasses.fields(TrainingArguments)}


def test_every_flag_belongs_to_one_group_and_has_a_help_text() -> None:
    names = [f.name for group in GROUPS for f in dataclasses.fields(group)]
    assert len(names) == len(set(names))
    ours = [f for group in (*GROUPS[:-1], TrainingFlags) for f in dataclasses.fields(group)]
    for field in (f for f in ours if f.name not in REJECTED):
        text = field.metadata["help"]
        assert text[0].isupper() or text.startswith(("none", "full", "balanced"))
        assert text.endswith((".", "..."))


def test_the_tables_of_inherited_flags_name_only_fields_of_the_trainer() -> None:
    assert TRAINER_FIELDS.keys() >= REJECTED.keys() | INHERITED_NEUTRAL | NOT_IN_RECIPE
    declared = {f.name for f in dataclasses.fields(TrainingFlags)}
    assert declared & INHERITED_NEUTRAL == set()
    assert declared & NOT_IN_RECIPE == set()


def test_a_redeclared_flag_has_the_default_of_the_trainer_or_one_of_these() -> None:
    ours = {f.name: default_of(f) for f in dataclasses.fields(TrainingFlags) if f.name in TRAINER_FIELDS}
    changed = {name: value for name, value in ours.items() if default_of(TRAINER_FIELDS[name]) != value}
    assert changed == {
        "num_train_epochs": 10.0,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "per_device_train_batch_size": None,  # 16, or what fits
        "torch_compile": None,  # the machine decides
        "per_device_eval_batch_size": 64,
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 1,
        "logging_steps": 0.02,
        "log_level_replica": "passive",
        "metric_for_best_model": "accuracy",
        "report_to": ["none"],
        "hub_strategy": "end",
        "ddp_timeout": 300,
        "dataloader_num_workers": -1,
        "hub_private_repo": False,
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
        "load_best_model_at_end": True,
        "logging_nan_inf_filter": False,
        "restore_callback_states_from_checkpoint": True,
        "do_train": True,
        "do_eval": True,
    }


def test_the_groups_load_no_torch() -> None:
    script = (
        "import sys; from pipeline.arguments import checks, data, images, model, selection, strategy, "
        "training, verbs; heavy = {'torch', 'transformers', 'numpy'} & sys.modules.keys(); sys.exit(str(heavy or 0))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.strip() in ("", "0")


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (ImageArguments(crop_scale=0.0), "--crop_scale 0.0 is out of range: use a value between 0 and 1 (excluding 0)"),
        (ImageArguments(hflip=1.1), "--hflip 1.1 is out of range: use a value between 0 and 1"),
        (ImageArguments(crop_scale=float("nan")), "--crop_scale nan is out of range"),
        (ImageArguments(mixup=-1.0), "--mixup -1.0 is out of range: use a value of at least 0"),
        (ImageArguments(patch_drop_rate=1.0), "use a value between 0 and 1 (excluding 1)"),
        (StrategyArguments(ema_decay=1.0), "use a value between 0 and 1 (excluding 0 and 1)"),
        (StrategyArguments(head_learning_rate=0.0), "use a value of more than 0"),
        (DataArguments(validation_fraction=1.0), "--validation_fraction 1.0 is out of range"),
        (DataArguments(max_test_samples=0), "--max_test_samples 0 is out of range: use a value of at least 1"),
    ],
)
def test_a_number_out_of_range_is_rejected_with_the_valid_range(group: Any, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        checks.require_valid(group)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "group", [ImageArguments(crop_scale=1.0, hflip=0.0), StrategyArguments(layer_decay=1.0), DataArguments()]
)
def test_the_ends_of_a_range_and_missing_values_are_valid(group: Any) -> None:
    checks.require_valid(group)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            {"images": ImageArguments(mixup=0.2), "trainer": FineTuningArguments(per_device_train_batch_size=1)},
            "--mixup",
        ),
        ({"objective": ObjectiveArguments("balanced", balanced_sampling=True)}, "remove one of them"),
        (
            {"objective": ObjectiveArguments("balanced"), "selection": SelectionArguments(refit_head=True)},
            "--refit_head ignores class balancing: add --refit_head False",
        ),
        ({"strategy": StrategyArguments(keep_adapter=True)}, "add --strategy lora"),
        ({"strategy": StrategyArguments("lora", layer_decay=0.5)}, "--strategy lora does not train the blocks"),
        (
            {
                "strategy": StrategyArguments("lora", keep_adapter=True),
                "selection": SelectionArguments(refit_head=True),
            },
            "add --refit_head False",
        ),
        ({"strategy": StrategyArguments("head"), "selection": SelectionArguments(fixres=True)}, "remove --fixres"),
    ],
)
def test_a_combination_that_does_not_work_is_rejected(groups: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        Settings(**groups)
    assert message in str(caught.value)


def test_streaming_lists_every_flag_that_needs_all_images() -> None:
    groups = {
        "model": ModelArguments(head_init="probe"),
        "data": DataArguments(streaming=True, max_train_samples=5),
        "objective": ObjectiveArguments(balanced_sampling=True),
        "strategy": StrategyArguments("head", baseline=True),
        "selection": SelectionArguments(auto=True),
    }
    found = flags_that_need_all_images(groups)
    assert found == [
        "--head_init probe", "--max_train_samples", "--balanced_sampling", "--strategy head", "--baseline", "--auto",
    ]  # fmt: skip
    with pytest.raises(PipelineError, match="need all images before training and cannot be combined with --streaming"):
        Settings(**groups)  # type: ignore[arg-type]
    Settings(data=DataArguments(streaming=True))


def test_neutral_flags_change_logs_speed_and_files_only() -> None:
    assert {"output_dir", "push_to_hub", "image_cache_gb", "max_hours", "baseline", "logging_steps"} <= NEUTRAL
    assert not {"seed", "learning_rate", "augmentation", "decode_size", "split_seed", "refit_head"} & NEUTRAL


def test_the_recipe_states_what_shapes_the_run_and_nothing_derived() -> None:
    resolved = Settings(data=DataArguments("photos"), selection=SelectionArguments(auto=True)).resolved()
    always = {name for name, role in flags_of(FineTuningArguments).items() if role.recipe == "always"}
    assert always <= resolved.keys()
    assert not {"auto", "output_dir", "dataloader_num_workers", "bf16", "use_cpu", "push_to_hub"} & resolved.keys()
