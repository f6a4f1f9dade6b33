from pathlib import Path

import pytest

from pipeline import config
from pipeline.arguments.data import DataArguments
from pipeline.arguments.images import AugmentationArguments
from pipeline.arguments.model import ModelArguments
from pipeline.arguments.strategy import AdaptationArguments
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.errors import PipelineError

CLASSES = (ModelArguments, DataArguments, AugmentationArguments, AdaptationArguments, FineTuningArguments)


def parse(*words: str) -> tuple[ModelArguments, DataArguments, FineTuningArguments]:
    model, data, _, _, training = config.parse(config.read_command_line("train", words), CLASSES)
    return model, data, training


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
        ("learning_rate: fast", r"mine\.yaml: learning_rate: invalid float value: 'fast'"),
        ("bad_images: perhaps", r"mine\.yaml: bad_images: "),
        ("head_init: maybe", r"mine\.yaml: head_init: "),
        ("augmentation: randd", r"mine\.yaml: augmentation: .*'trivial'"),
        ("evaluation_strategy: epoch", r"mine\.yaml: evaluation_strategy .*--eval_strategy"),
        ("- a\n- b", r"must hold lines `key: value`"),
        ("a: [", r"is no readable YAML file"),
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
        (["--learning-rate=fast"], "--learning_rate: invalid float value"),
        (["stray"], "unexpected argument 'stray'"),
        (["--warmup_ratio", "0.1", "--no_cuda"], r"warmup_ratio is not .*\nno_cuda is not "),
        (["--bf16", "--hub_token", "x"], r"--bf16 True .*\n--hub_token|--hub_token.*\n--bf16"),
        (["--warmup_steps", "1.0"], "one single step"),
        (["--eval_strategy", "no"], "must be epoch or steps"),
        (["--hflip", "2"], r"^--hflip 2\.0: a probability"),
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
