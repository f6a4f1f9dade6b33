"""The README is true: its commands parse, those that need no network run, its tree is the directory."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from pipeline import cli, config
from pipeline.runs.folder import PUBLISHED, RECIPE
from pipeline.workflows import evaluate, predict, push, train

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT.replace("\\\n", ""), re.DOTALL)
COMMANDS = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
MODULES = {"train": train, "evaluate": evaluate, "predict": predict, "push": push}

Run = Callable[..., tuple[int, str, str]]


def words_of(command: str) -> list[str]:
    launcher, module, launched = command.partition(" -m pipeline ")
    if module:
        words = shlex.split(launcher.removeprefix("ACCELERATE_USE_CPU=true "))
        assert words[:3] == ["accelerate", "launch", "--config_file"]
        assert (ROOT / words[3]).is_file()
        launch_command_parser().parse_args([*words[2:], "-m", "pipeline"])
        return shlex.split(launched)
    program, *words = shlex.split(command)
    assert program == "./run.sh", command
    return words or ["train", "--config", "synthetic-flowers"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str) -> None:
    verb, *words = words_of(command)
    if verb == "test":
        assert "== test ]]" in (ROOT / "run.sh").read_text()
        return
    positional = "images" if verb == "predict" else None
    parsed = config.parse(config.read_command_line(verb, words), MODULES[verb].ARGUMENTS, positional=positional)
    assert positional is None or parsed[-1]


def test_the_first_command_and_those_on_a_run_work(
    vit_pipeline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--max_train_samples=102", "--max_eval_samples=102", "--max_test_samples=102", "--max_steps=2"]
    code, out, err = vit_pipeline(*words_of("./run.sh"), *quick, "--eval_steps=2", "--save_steps=2")
    assert code == 0, err
    assert "outputs/synthetic-flowers-seed42 is finished" in out
    folder = Path("outputs/synthetic-flowers-seed42")
    for command in COMMANDS:
        verb, *words = words_of(command)
        if verb == "predict":
            renamed = {"outputs/photos-seed42": str(folder), "path/to/new": str(photos)}
            code, out, err = vit_pipeline(verb, *(renamed.get(word, word) for word in words))
            assert code == 0, err
            assert Path("labels.csv").stat().st_size > 0
    assert vit_pipeline("train", "--config", folder / RECIPE, "--output_dir=again")[0] == 0


def test_the_tree_is_the_directory() -> None:
    tree = re.search(r"^pipeline/\n(.*?)```", TEXT, re.DOTALL | re.MULTILINE)
    assert tree is not None
    named, folder = set(), ""
    for line in tree[1].splitlines():
        indent, name = re.findall(r"^( +)(\S+)", line)[0]
        folder = folder if len(indent) > 2 else name if name.endswith("/") else ""
        named.add(name if len(indent) == 2 else folder + name)
    package = ROOT / "pipeline"
    inside = [p for p in package.iterdir() if p.name not in ("__pycache__", "__init__.py")]
    below = [p for folder in inside if folder.is_dir() for p in folder.iterdir()]
    modules = {p for p in below if p.suffix == ".py" or (p / "__init__.py").is_file()}
    actual = {p for p in {*inside, *modules} if p.name != "__init__.py"}
    assert named == {f"{p.relative_to(package)}/" if p.is_dir() else str(p.relative_to(package)) for p in actual}


def test_the_run_folder_table_is_the_contract() -> None:
    table = TEXT[TEXT.index("## What a run leaves") : TEXT.index("## What others get wrong")]
    assert set(re.findall(r"`([\w.]+\.\w+)`", table)) == set(PUBLISHED)


def test_the_flags_of_the_table_exist(vit_pipeline: Run) -> None:
    places = [("## The best accuracy", "## Several GPUs"), ("## The flags that matter", "## What a run leaves")]
    table = "".join(TEXT[TEXT.index(start) : TEXT.index(end)] for start, end in places)
    _, help_text, _ = vit_pipeline("train", "--help-all")
    flags = set(re.findall(r"`?--(\w+)", table)) - {"help", "config"}
    assert all(f"--{flag}" in help_text for flag in flags)
    assert cli.VERBS.keys() == set(MODULES)
