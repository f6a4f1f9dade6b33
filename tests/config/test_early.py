"""Mistakes are reported together, before torch is imported; flags without effect; what `--auto` may choose."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import config
from pipeline.arguments.flags import flags_of
from pipeline.arguments.inherited import REJECTED
from pipeline.arguments.strategy import StrategyArguments
from pipeline.config.names import BUILT_IN_DATASETS, TABLE_EXTENSIONS, as_path
from pipeline.config.parse import read_groups
from pipeline.data.source_types import SOURCE_TYPES
from pipeline.errors import PipelineError
from pipeline.workflows.predict import WRITERS

BASE = ["--dataset_name=synthetic-flowers", "--model_name_or_path=synthetic-flowers-base"]


def problems(verb: str, *words: str) -> list[str]:
    try:
        config.check(config.read_command_line(verb, words))
    except PipelineError as error:
        return str(error).splitlines()
    return []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "--learning_rat=1"], "unknown flag"),
        (["train", "--seed=lucky"], "--seed lucky is not an integer: use a value"),
        (["train", "--optim=adm"], "--optim adm is unknown"),
        (["train", "--bf16"], "--bf16 True is not supported"),
        (["train", "--strategy=head", "--learning_rate=1"], "has no effect"),
        (["train", "--dataset_name=./nowhere"], "dataset ./nowhere not found"),
        (["train", "--model_name_or_path=~/nowhere"], "there is no model folder ~/nowhere"),
        (["train", *BASE, "--model_name_or_path=nobody/none"], "model nobody/none is not cached"),
        (["train", *BASE, "--output_dir=file/run"], "file is a file"),
        (["train", "--config=nowhere.yaml"], "unknown recipe or file"),
        (["predict", "--model=nowhere", "none*.jpg", "--output=a.txt"], "no image found at none*.jpg"),
        (["evaluate", "--model=nowhere"], "there is no model folder nowhere"),
        (["evaluate", "--model=started", "--against=nowhere"], "there is no model folder nowhere"),
        (["push", "--model=nowhere"], "nowhere is not a run folder"),
        (["push", "--model=started"], "the run in started is not finished: repeat its `train` command"),
        (["export", "--model=started"], "the run in started is not finished: repeat its `train` command"),
        (["evaluate", *BASE[:1], "--model=started", "--output_dir=started"], "started already holds metrics"),
        (["train", *BASE, "--report_to=clearml"], "--report_to clearml is not installed: run `pip install clearml`"),
    ],
)
def test_a_mistake_is_reported_before_anything_heavy_is_imported(
    words: list[str], expected: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "started").mkdir()
    for name, content in (("run.json", {"status": "started"}), ("all_results.json", {}), ("config.json", {})):
        (tmp_path / "started" / name).write_text(json.dumps(content))
    script = (
        "import sys; from pipeline import cli; code = cli.main(sys.argv[1:]); "
        "print(sorted({'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'PIL'} & sys.modules.keys())); "
        "sys.exit(code)"
    )
    root = Path(config.__file__).parents[2]
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {script}", *words]
    done = subprocess.run(run, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "[]\n"), done.stderr
    assert expected in done.stderr


def test_all_problems_are_named_at_once() -> None:
    found = problems(
        "train", "--lr", "1", "--seed=x", "--hflip=2", "--do_predict", "--save_steps=7", "--eval_steps=2",
        "--eval_strategy=steps", "--save_strategy=steps", "--dataset_name=./none", "--model_name_or_path=./none",
        "stray", "--config=nothing",
    )  # fmt: skip
    expected = [
        "unknown recipe", "--lr is not a flag here", "--seed x is not an integer", "--hflip 2.0 is out of range",
        "--do_predict True is not", "--save_steps 7 is not a multiple of --eval_steps 2", "dataset ./none not found",
        "there is no model folder ./none", "unexpected argument 'stray'",
    ]  # fmt: skip
    assert [text for text in expected if not any(line.startswith(text) for line in found)] == []
    assert len(found) == len(expected)


def test_a_missing_flag_is_not_reported_again_under_its_name_here() -> None:
    assert problems("train", "--data", "x", "--model", "y") == [
        "--data is not a flag here: use --dataset_name FOLDER",
        "--model is not a flag here: use --model_name_or_path",
    ]


def test_the_names_are_those_of_the_sources_and_writers() -> None:
    assert set(BUILT_IN_DATASETS) == {name for name in SOURCE_TYPES if SOURCE_TYPES[name].matches(name)}
    assert set(TABLE_EXTENSIONS) == set(WRITERS)


def test_a_hub_id_that_is_cached_is_accepted_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    words = ["--dataset_name=me/photos", "--model_name_or_path=me/vit"]
    assert len(problems("train", *words)) == 2
    (tmp_path / "models--me--vit").mkdir()
    (tmp_path / "datasets--me--photos").mkdir()
    assert problems("train", *words) == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert problems("train", "--dataset_name=me/others", "--model_name_or_path=me/other") == []


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (["--strategy=head", "--learning_rate=1e-3", "--num_train_epochs=3"], ["learning_rate", "num_train_epochs"]),
        (["--strategy=head", "--mixup=0.2", "--ema_decay=0.9", "--refit_head"], ["mixup", "ema_decay", "refit_head"]),
        (["--strategy=head", "--max_hours=1", "--early_stopping_patience=2"], ["max_hours", "early_stopping_patience"]),
        (["--strategy=head", "--adam_beta1=0.8", "--class_weights=balanced"], ["adam_beta1", "class_weights"]),
        (["--lora_rank=8", "--lora_alpha=8"], ["lora_rank", "lora_alpha"]),
        (["--strategy=head", "--mixup=0", "--refit_head=False", "--precision=fp32", "--seed=1"], []),
        (["--strategy=lora", "--lora_rank=8", "--learning_rate=1e-3"], []),
    ],
)
def test_a_flag_that_the_strategy_ignores_is_rejected(words: list[str], ignored: list[str]) -> None:
    found = [line for line in problems("train", *BASE, *words) if "has no effect with --strategy" in line]
    assert sorted(re.findall(r"^--(\w+) .*: remove it$", "\n".join(found), re.MULTILINE)) == sorted(ignored)


def test_a_problem_of_a_combination_is_not_repeated() -> None:
    assert len(problems("train", *BASE, "--strategy=lora", "--layer_decay=0.5")) == 1


def test_a_recipe_may_state_flags_that_the_strategy_ignores(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("learning_rate: 1e-3\nlora_rank: 8\n")
    assert problems("train", *BASE, f"--config={tmp_path}/mine.yaml", "--strategy=head") == []


def test_accumulation_and_a_global_batch_are_rejected_together() -> None:
    found = problems("train", *BASE, "--global_batch_size=32", "--gradient_accumulation_steps=2")
    assert found == ["--gradient_accumulation_steps is derived from --global_batch_size 32: remove one of them"]


# A valid value of each flag that shapes a run, if it is not the first of these that differs from the default.
VALUES = {
    "dataset_name": "synthetic-flowers", "model_name_or_path": "synthetic-flowers-base", "lr_scheduler_type": "linear",
    "optim": "sgd", "optim_args": "momentum=0.9", "report_to": "none", "eval_strategy": "epoch", "warmup_steps": "0.2",
    "save_strategy": "best", "metric_for_best_model": "loss", "class_weights": "balanced", "strategy": "lora",
    "head_init": "zero", "bad_images": "skip", "augmentation": "none", "precision": "fp32", "ddp_backend": "gloo",
    "max_steps": "5", "torch_compile": "True", "keep_adapter": "True", "logging_strategy": "epoch",
    "debug": "underflow_overflow", "class_names": __file__, "drop_list": __file__, "relabel": __file__,
}  # fmt: skip
CHOICES: dict[str, dict[str, object]] = {
    "head": {"strategy": "head", "precision": "bf16"},
    "full": {
        "strategy": "full", "num_train_epochs": 30, "global_batch_size": 32, "per_device_train_batch_size": 32,
        "auto_find_batch_size": True, "optim": "adamw_torch_fused", "weight_decay": 0.05, "refit_head": True,
        "learning_rate": 2e-3, "layer_decay": 0.85, "mixup": 0.5, "label_smoothing_factor": 0.1, "ema_decay": 0.99,
        "head_init": "probe", "image_size": 224, "augmentation": "basic", "crop_scale": 0.4, "precision": "bf16",
        "eval_steps": 0.1, "save_steps": 0.1, "eval_strategy": "steps", "save_strategy": "steps",
    },
    "lora": {"strategy": "lora", "refit_head": True, "head_init": "probe", "learning_rate": 1e-3},
}  # fmt: skip
SHAPING = sorted(
    name
    for group in config.VERBS["train"].classes
    for name, role in flags_of(group).items()
    if name not in {*REJECTED, "auto", "streaming", "output_dir", "hub_model_id", "push_to_hub"} and not role.neutral
)


@pytest.mark.parametrize("name", SHAPING)
@pytest.mark.parametrize("chosen", CHOICES)
def test_a_flag_of_the_user_is_never_refused_for_a_choice_of_auto(name: str, chosen: str) -> None:
    values = [VALUES[name]] if name in VALUES else ["True", "0.5", "2", "text"]
    lines = [config.read_command_line("train", [*BASE, "--auto", f"--{name}={value}"]) for value in values]
    line = next(line for line in lines if not read_groups(line, config.VERBS["train"].classes, positional=False)[2])
    config.check(line)
    kept = config.choices_that_fit(line, CHOICES[chosen])
    line = dataclasses.replace(line, chosen=kept)
    config.check(line)
    values_read = read_groups(line, config.VERBS["train"].classes, positional=False)[0].values
    roles = {key: role for group in config.VERBS["train"].classes for key, role in flags_of(group).items()}
    assert not roles[name].strategies or values_read["strategy"] in roles[name].strategies


def test_a_time_limit_does_not_overrule_the_choice_of_a_linear_probe() -> None:
    line = config.read_command_line("train", [*BASE, "--auto", "--max_hours=1"])
    kept = config.choices_that_fit(line, CHOICES["head"])
    assert kept == ["--strategy=head", "--precision=bf16"]
    config.check(dataclasses.replace(line, chosen=kept))


EVALUATIONS: dict[str, object] = {
    "eval_steps": 0.1, "save_steps": 0.1, "eval_strategy": "steps", "num_train_epochs": 30, "save_strategy": "steps",
}  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "strategies"),
    [
        ("--seed=1", ("steps", "steps")),
        ("--eval_strategy=epoch", ("epoch", "epoch")),
        ("--save_strategy=best", ("steps", "best")),
        ("--save_strategy=epoch", ("epoch", "epoch")),
    ],
)
def test_choices_that_only_fit_together_are_kept_together(flag: str, strategies: tuple[str, str]) -> None:
    line = config.read_command_line("train", [*BASE, "--auto", flag])
    line = dataclasses.replace(line, chosen=config.choices_that_fit(line, EVALUATIONS))
    config.check(line)
    values = read_groups(line, config.VERBS["train"].classes, positional=False)[0].values
    assert (values.get("eval_strategy", "epoch"), values.get("save_strategy", "epoch")) == strategies


def test_flags_that_no_strategy_uses_together_are_refused_with_auto_too() -> None:
    assert problems("train", *BASE, "--auto", "--lora_rank=8", "--freeze_blocks=1")
    assert problems("train", *BASE, "--auto", "--lora_rank=8") == []
    assert {name for name in StrategyArguments.__dataclass_fields__ if name.startswith("lora_")} <= set(SHAPING)


@pytest.mark.parametrize(
    "words",
    [
        ["--hub_token", "hf_PLANTEDsecret"],
        ["--hub_token=hf_PLANTEDsecret"],
        ["--token", "PLANTEDsecret"],
        ["--api-key=PLANTEDsecret"],
        ["--wandb_api_key", "PLANTEDsecret"],
        ["--password", "PLANTEDsecret", "--sed", "1"],
        ["hf_PLANTEDsecret"],
        ["token=PLANTEDsecret"],
        ["--seed=hf_PLANTEDsecret"],
        ["--dataset_name=hf_PLANTEDsecret"],
        ["--config=hf_PLANTEDsecret"],
        ["--optim", "hf_PLANTEDsecret"],
        ["--hf_PLANTEDsecret"],
    ],
)
def test_a_secret_is_never_repeated(words: list[str]) -> None:
    line = config.read_command_line("train", words)
    with pytest.raises(PipelineError) as caught:
        config.check(line)
    assert "PLANTED" not in str(caught.value)
    assert "PLANTED" not in " ".join(line.words)


def test_a_tilde_without_such_a_user_is_part_of_the_name() -> None:
    assert as_path("~") == Path.home()
    assert as_path("~nobody-of-this-name/a") == Path("~nobody-of-this-name/a")
    for word in ("--dataset_name=~nobody-of-this-name", "--config=~nobody-of-this-name"):
        assert "~nobody-of-this-name" in "".join(problems("train", word))


def test_a_page_needs_gradio_and_a_space_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("gradio", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    assert problems("app", "--model=synthetic-flowers-base") == ["app needs gradio: run `pip install gradio`"]
    (tmp_path / "model-int8.onnx").write_bytes(b"")
    both = "needs gradio, onnxruntime: run `pip install gradio onnxruntime`"
    assert problems("app", f"--model={tmp_path}") == [f"app {both}"]
    assert f"push --space {both}" in problems("push", f"--model={tmp_path}", "--hub_model_id=me/x", "--space")
