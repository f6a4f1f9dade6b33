"""The documentation agrees with the program: links resolve, flags and recipes exist, commands parse."""

import functools
import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import config
from pipeline.arguments.flags import flags_of

ROOT = Path(__file__).parents[1]
TEMPLATES = {ROOT / "pipeline" / "assets" / "model_card.md"}
PAGES = sorted({*ROOT.glob("*.md"), ROOT / "outputs" / "README.md"} - TEMPLATES) + sorted(
    page
    for folder in (".github", "pipeline", "tests")
    for page in (ROOT / folder).rglob("*.md")
    if page not in TEMPLATES
)
FLAG_PAGES = [ROOT / "README.md", ROOT / "pipeline" / "configs" / "README.md", ROOT / ".github" / "CONTRIBUTING.md"]
RECIPES_PAGE = ROOT / "pipeline" / "configs" / "README.md"

# Flags of other programs that the pages mention, for example those of `accelerate launch`.
OTHER_FLAGS = {
    "config", "help", "help-all", "config_file", "num_processes", "num_machines", "machine_rank", "main_process_ip",
    "cpu", "check",
}  # fmt: skip

Run = Callable[..., tuple[int, str, str]]


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub builds them."""
    headings = re.findall(r"^#+ (.+)$", without_code(read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", read(page), re.DOTALL)


def commands(page: Path) -> list[str]:
    """Return the commands of the program in the page's bash blocks, without comments."""
    text = "\n".join(blocks(page, "bash")).replace("\\\n", "")
    lines = [line.partition("  #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith(("./run.sh", "vit-pipeline "))]


COMMANDS = [pytest.param(c, id=f"{page_id(page)}: {c}"[:100]) for page in PAGES for c in commands(page)]


def parse(verb: str, words: list[str]) -> None:
    """Parse and check a command line as the program does, without running it."""
    module = importlib.import_module(f"pipeline.workflows.{verb}")
    positional = "images" if config.VERBS[verb].takes_images else None
    config.parse(config.read_command_line(verb, words), module.ARGUMENTS, positional=positional)


@functools.cache
def every_flag() -> frozenset[str]:
    """Return the flags of all verbs."""
    groups = [
        *(group for verb in config.VERBS.values() for group in verb.groups.values()),
        *importlib.import_module("pipeline.workflows.train").ARGUMENTS,
    ]
    return frozenset(name for group in groups for name in flags_of(group))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_relative_link_resolves(page: Path) -> None:
    links = re.findall(r'\]\(([^)\s]+)(?: "[^"]*")?\)', without_code(read(page)))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_table_has_the_same_number_of_cells_in_each_row(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", without_code(read(page)), re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1, table.splitlines()[0]


@pytest.fixture(scope="session")
def example_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the example of a user's recipe."""
    (example,) = blocks(RECIPES_PAGE, "yaml")
    file = tmp_path_factory.mktemp("recipes") / "products.yaml"
    file.write_text(example, encoding="utf-8")
    return file


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_parses(command: str, example_recipe: Path) -> None:
    _, *words = shlex.split(command)
    verb, *flags = words or ["train", "--config", "synthetic-flowers"]
    if verb == "test":
        assert "== test ]]" in read(ROOT / "run.sh")
    elif not {"--help", "--help-all"} & set(flags):
        parse(verb, [str(example_recipe) if flag.endswith(".yaml") else flag for flag in flags])


@pytest.mark.parametrize("page", FLAG_PAGES, ids=page_id)
def test_every_flag_that_is_named_exists(page: Path) -> None:
    text = re.sub(r"```(python|yaml)\n.*?```", "", read(page), flags=re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--([a-z][\w-]*)", text))
    assert named - every_flag() - OTHER_FLAGS == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_recipe_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"--config[ =]([\w-]+)(?![\w./-])", read(page))
    assert {name for name in named if not name.isupper()} <= config.shipped_recipes().keys()


def test_the_table_of_recipes_lists_every_recipe() -> None:
    named = re.findall(r"^\| \[`([\w-]+)`\]\(\1\.yaml\)", read(RECIPES_PAGE), re.MULTILINE)
    assert sorted(named) == sorted(config.shipped_recipes())


def test_the_tables_of_flags_list_every_flag_of_the_short_help() -> None:
    listed = set(re.findall(r"`--(\w+)`", read(RECIPES_PAGE)))
    short = {
        name
        for verb in config.VERBS.values()
        for group in verb.groups.values()
        for name, role in flags_of(group).items()
        if role.short
    }
    assert short - listed == set()


def test_the_tables_of_flags_name_the_strategies_that_use_them() -> None:
    roles = {name: role for group in config.VERBS["train"].classes for name, role in flags_of(group).items()}
    for names, strategies in re.findall(
        r"^\| (`--.*?) \| .* \| ((?:full|lora|any)[^|]*) \|$", read(RECIPES_PAGE), re.MULTILINE
    ):
        used = strategies.partition(";")[0]
        for name in set(re.findall(r"`--(\w+)`", names)) - {"streaming"}:
            assert ", ".join(roles[name].strategies) == ("" if used == "any" else used), name


def has_files(folder: Path) -> bool:
    """Return whether a folder holds more than the bytecode of files that are gone."""
    return any(path.is_file() and "__pycache__" not in path.parts for path in folder.rglob("*"))


def test_the_tree_in_contributing_is_the_package() -> None:
    tree = re.search(r"^pipeline/\n(.*?)```", read(ROOT / ".github" / "CONTRIBUTING.md"), re.DOTALL | re.MULTILINE)
    assert tree is not None
    named, folders = set(), list[str]()
    for line in tree[1].splitlines():
        indent, name = re.findall(r"^( +)(\S+)", line)[0]
        folders = folders[: len(indent) // 2 - 1]
        named.add("".join([*folders, name]))
        folders.append(name)
    package = ROOT / "pipeline"
    inside = [path for path in package.iterdir() if path.is_file() or has_files(path)]
    inside = [path for path in inside if path.name != "py.typed"]
    modules = [path for folder in inside if folder.is_dir() for path in folder.rglob("*.py")]
    packages = [path.parent for path in modules if path.parent.parent != package]
    files = [path for path in (*inside, *modules, *packages) if path.name != "__init__.py" or path.parent == package]
    assert named == {f"{p.relative_to(package)}/" if p.is_dir() else str(p.relative_to(package)) for p in files}
