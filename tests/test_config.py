from pathlib import Path

import pytest

from pipeline import config
from pipeline.arguments.data import DataArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.settings import GROUPS, Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import PipelineError


def parse(*words: str) -> tuple[ModelArguments, DataArguments, FineTuningArguments]:
    settings = Settings(*config.parse(config.read_command_line("train", words), GROUPS))
    return settings.model, settings.data, settings.trainer


def test_a_flag_beats_the_recipe_and_the_recipe_the_default(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("learning_rate: 2e-5\nhead_init: zero\nseed: 7\nreport_to: [tensorboard]\n")
    model, _, training = parse("--config", str(recipe), "--seed", "9")
    assert (training.learning_rate, training.seed, training.num_train_epochs) == (2e-5, 9, 10.0)
    assert model.head_init == "zero"
    assert training.report_to == ["tensorboard"]


def test_no_is_a_choice_and_null_is_not_given(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("head_init: random\nimage_size: null\nbad_images: skip\nlr_scheduler_kwargs: {num_cycles: 2}\n")
    model, data, training = parse("--config", str(recipe))
    assert (model.head_init, model.image_size, data.bad_images) == ("random", None, "skip")
    assert training.lr_scheduler_kwargs == {"num_cycles": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"mine\.yaml: unknown flag learning_rat \(did you mean 'learning_rate'\?\)"),
        ("learning_rate: fast", r"mine\.yaml: learning_rate fast is not a number"),
        ("bad_images: perhaps", r"mine\.yaml: bad_images perhaps is unknown: use fail, skip"),
        ("head_init: maybe", r"mine\.yaml: head_init maybe is unknown: use random, zero, probe"),
        ("augmentation: randd", r"mine\.yaml: augmentation randd is unknown \(did you mean 'rand'\?\): use .*trivial"),
        ("evaluation_strategy: epoch", r"mine\.yaml: evaluation_strategy does not exist any more: use eval_strategy"),
        ("- a\n- b", r"is not a recipe: write one `key: value` per line"),
        ("a: [", r"is not a readable YAML file"),
    ],
)
def test_a_mistake_in_a_recipe_names_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(text)
    with pytest.raises(PipelineError, match=message):
        parse("--config", str(recipe))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning_rat", "1"], r"unknown flag --learning_rat \(did you mean '--learning_rate'\?\)$"),
        (["--see", "1"], "unknown flag --see"),  # no abbreviations
        (["--learning-rate=fast"], "--learning_rate fast is not a number"),
        (["stray"], "unexpected argument 'stray'"),
        (["--warmup_ratio", "0.1", "--no_cuda"], r"--warmup_ratio does not exist any more.*\n--no_cuda does not exist"),
        (["--bf16", "--hub_token", "x"], r"--bf16 True .*\n--hub_token|--hub_token.*\n--bf16"),
        (["--warmup_steps", "1.0"], "is one single step: use 0.1"),
        (["--eval_strategy", "no"], "never scores validation.*: use epoch or steps"),
        (["--hflip", "2"], r"^--hflip 2\.0 is out of range: use a value between 0 and 1"),
        (["--push_to_hub"], "--hub_model_id OWNER/NAME"),
        (["--config", "synthetic-flower"], r"did you mean 'synthetic-flowers'\?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_with_the_remedy(words: list[str], message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        parse(*words)
    assert "--help" not in str(caught.value)
    assert str(caught.value).count("\n") < 2


def test_dashes_and_underscores_are_the_same() -> None:
    assert parse("--learning-rate=3e-4")[2].learning_rate == 3e-4


def test_a_call_from_python_is_parsed_as_a_command_line() -> None:
    flags = {"seed": 7, "from_scratch": True, "image_size": None, "report_to": ["tensorboard"]}
    line = config.read_call("train", "synthetic-flowers", flags)
    settings = Settings(*config.parse(line, GROUPS))
    assert (settings.trainer.seed, settings.model.from_scratch, settings.model.image_size) == (7, True, None)
    assert settings.trainer.report_to == ["tensorboard"]
    assert settings.data.dataset_name == "synthetic-flowers"
    assert line.words[:2] == ["train", "--config=synthetic-flowers"]
    with pytest.raises(PipelineError, match=r"unknown flag --sed \(did you mean '--seed'"):
        config.parse(config.read_call("train", None, {"sed": 1}), GROUPS)
    with pytest.raises(PipelineError, match="--recipe does not exist any more: use --auto"):
        config.parse(config.read_call("train", None, {"recipe": "auto"}), GROUPS)
