"""The README is true: its commands work, its Python block runs, its tables are those of the program.

`tests/test_docs.py` checks what holds for every page: links, flags, recipes, and that commands parse.
"""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

from pipeline.config import VERBS, shipped_recipes
from pipeline.runs.folder import PUBLISHED, RECIPE

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT.replace("\\\n", ""), re.DOTALL)
COMMANDS = [line.partition("  #")[0].strip() for block in BLOCKS for line in block.splitlines()]
QUICK = ["--max_train_samples=102", "--max_eval_samples=102", "--max_test_samples=102", "--max_steps=2"]

Run = Callable[..., tuple[int, str, str]]


def section(title: str) -> str:
    """Return the text below a heading."""
    start = TEXT.index(f"\n## {title}\n")
    return TEXT[start : TEXT.find("\n## ", start + 1)]


def test_the_page_fits_on_a_few_screens() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert "DEMO_OUTPUT" not in TEXT
    assert "RESULTS_TABLE" not in TEXT


def test_every_launch_parses() -> None:
    launches = [command for command in COMMANDS if command.startswith("accelerate launch")]
    assert len(launches) == 2
    for command in launches:
        launcher, _, launched = command.partition(" -m pipeline ")
        words = shlex.split(launcher)
        assert words[:3] == ["accelerate", "launch", "--config_file"]
        assert (ROOT / words[3]).is_file()
        launch_command_parser().parse_args([*words[2:], "-m", "pipeline"])
        assert launched.startswith("train ")


def test_the_commands_that_need_no_network_work(
    vit_pipeline: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path, train_flags: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = next(c for c in COMMANDS if "train --config synthetic-flowers" in c)
    words = [*shlex.split(demo)[1:], *QUICK, "--eval_steps=2", "--save_steps=2"]
    code, out, err = vit_pipeline(*words)
    assert code == 0, err
    assert "outputs/synthetic-flowers-seed42" in out
    shutil.copytree(photos, tmp_path / "path" / "to" / "photos")
    (tmp_path / "path" / "to" / "new").symlink_to(photos / "test" / "red")
    fast = [flag for flag in train_flags if not flag.startswith("--dataset_name")]
    for command in ("./run.sh train --dataset_name path/to/photos", next(c for c in COMMANDS if "predict" in c)):
        verb, *words = shlex.split(command)[1:]
        code, out, err = vit_pipeline(verb, *words, *(fast if verb == "train" else []))
        assert code == 0, err
    assert Path("labels.csv").stat().st_size > 0
    assert vit_pipeline("train", "--config", f"outputs/photos-seed42/{RECIPE}", "--output_dir=again")[0] == 0


def test_the_python_block_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "new").symlink_to(photos / "test" / "red")
    exec(compile(block, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "probability" in printed
    assert "correct" in printed


def test_the_recipe_table_is_the_folder() -> None:
    named = set(re.findall(r"^\| `([\w-]+)`|, `([\w-]+)` \|", section("Recipes"), re.MULTILINE))
    assert {name for pair in named for name in pair if name} == shipped_recipes().keys() - {"synthetic-pretrain"}


def test_the_run_folder_table_is_the_contract() -> None:
    assert set(re.findall(r"`([\w.]+\.\w+)`", section("What a run leaves"))) == set(PUBLISHED)


def test_every_verb_is_mentioned() -> None:
    assert all(f"./run.sh {verb}" in TEXT for verb in VERBS)
