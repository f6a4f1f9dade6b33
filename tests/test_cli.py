import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli, config
from pipeline.arguments.flags import flags_of

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["trian"], ["train", "--config", "no-such-recipe"]])
def test_help_and_early_errors_load_no_torch(words: list[str]) -> None:
    script = (
        "import sys; from pipeline import cli; code = cli.main(sys.argv[1:]); "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy'} & sys.modules.keys(); "
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == (0 if "--help" in words else 2), done.stderr


def test_help_names_every_verb_recipe_and_our_own_flags(vit_pipeline: Run) -> None:
    _, overview, _ = vit_pipeline("--help")
    assert all(verb in overview for verb in config.VERBS)
    _, text, _ = vit_pipeline("train", "--help")
    roles = {name: role for group in config.VERBS["train"].groups.values() for name, role in flags_of(group).items()}
    assert {name for name in roles if f"  --{name} " in text} == {name for name, role in roles.items() if role.short}
    assert all(recipe in text for recipe in config.shipped_recipes())


@pytest.mark.parametrize("verb", config.VERBS)
def test_help_all_lists_every_flag(verb: str, vit_pipeline: Run) -> None:
    code, text, _ = vit_pipeline(verb, "--help-all")
    assert code == 0
    flags = [f.name for c in config.VERBS[verb].groups.values() for f in dataclasses.fields(c)]
    assert all(f"--{flag}" in text for flag in flags)
    assert verb != "train" or "--adam_beta1" in text


def test_arrow_shares_the_allocator_of_all_else(tmp_path: Path) -> None:
    (tmp_path / "broken.png").touch()
    script = (
        f"from pipeline import cli; cli.main(['predict', '--model=synthetic-flowers-base', '{tmp_path}/broken.png']); "
        "import pyarrow; print(pyarrow.default_memory_pool().backend_name)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "system\n"


def test_every_verb_has_its_module() -> None:
    modules = {p.stem for p in (Path(cli.__file__).parent / "workflows").glob("*.py")} - {
        "__init__",
        "load",
        "results",
        "watch",
    }
    assert modules == config.VERBS.keys()


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    command = f"{sys.executable} -m pipeline train --help | head -n 1 > {tmp_path / 'out'}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=os.environ)
    assert done.stderr == ""
    assert (tmp_path / "out").read_text().startswith("usage")
