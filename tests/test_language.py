"""The texts of all errors have one form, and no file uses words that readers had to decode."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.arguments.inherited import REJECTED
from pipeline.config import REMOVED

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "pipeline").rglob("*.py"))
ERRORS = re.compile(r"Error$|^Terminated$|^no_linear_head$")

# Phrases of the former private dialect, each with what to say instead.
DIALECT = {
    r"\banew\b": "again, new",
    r"\balike\b": "the same, equally",
    r"\bbeside\b": "next to, in addition to",
    r"\bso many\b": "this many",
    r"\bdealt out\b": "sharded, assigned",
    r"\b(left|leave|leaves|leaving) (\w+ )?out\b": "drop, hold out, skip, ignore, remove",
    r"(?<!there )\b(is|are|takes) no (?!longer\b)": "is not a",
    r"\bdrawn by lot\b": "sampled at random",
    r"\brepay": "worthwhile",
    r"\bof its own\b": "its own",
    r"\bto the bit\b": "bit-exact",
    r"\bin turn\b": "round-robin, one after the other",
    r"\bas far as\b": "if, where",
    r"\blest\b": "so that not",
    r"\btold\b": "shown, set",
    r"\bgoes on\b|\bgo on\b|\bgoing on\b": "resume, continue",
    r"\brecipe auto\b": "--auto",
}


def texts(node: ast.AST) -> str:
    """Return the literal text of an expression, with `{}` in place of each value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(texts(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return texts(node.left) + texts(node.right)
    return "{}"


def raised(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each error that is made for users."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            text = texts(node.args[-1])
            if ERRORS.search(name) and name not in ("ValueError", "AttributeError", "TypeError") and text != "{}":
                yield node.lineno, text
        elif isinstance(node, ast.Yield) and node.value is not None and file.parent.name == "arguments":
            yield node.lineno, texts(node.value)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_errors_start_in_lower_case_and_end_without_a_full_stop(file: Path) -> None:
    for line, text in raised(file):
        where = f"{file.name}:{line}: {text}"
        for sentence in text.split("\n"):
            words = re.sub(r"`[^`]*`|\{\}", "", sentence)
            first = re.match(r"[A-Za-z]+", sentence)
            proper_name = re.match(r"FixRes|LoRA|FSDP|Parquet|CSV|JSON|Python|GPU|Hub", sentence)
            assert first is None or first[0][0].islower() or proper_name, where
            assert not re.search(r"[^.]\.\s*$", words), where
            assert ". " not in words.replace("...", "").replace("e.g. ", ""), where


def test_a_rejected_or_removed_flag_says_why_or_what_to_use() -> None:
    for name, text in (REJECTED | REMOVED).items():
        assert text[0].islower() or text.split()[0].isupper(), name
        assert not text.endswith("."), name
    assert all(re.search(r"\b(use|set|log in|remove)\b", text) for text in REMOVED.values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_file_uses_the_former_dialect(file: Path) -> None:
    text = " ".join(re.sub(r"^\s*# ?", "", line) for line in file.read_text(encoding="utf-8").splitlines())
    text = re.sub(r"\s+", " ", text)
    found = {pattern: match[0] for pattern in DIALECT if (match := re.search(pattern, text, re.IGNORECASE))}
    assert not found, "\n".join(f"{word!r}: say {DIALECT[pattern]}" for pattern, word in found.items())


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_public_functions_start_with_an_imperative_verb(file: Path) -> None:
    nouns = re.compile(r"^(The|A|An|What|Which|Whether|How|Every|Each|All|No|Of|In)\b")
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        is_property = any("property" in ast.unparse(d) for d in getattr(node, "decorator_list", []))
        if isinstance(node, ast.FunctionDef) and not is_property and not node.name.startswith("__"):
            doc = ast.get_docstring(node) or ""
            assert not nouns.match(doc), f"{file.name}:{node.lineno}: {doc.splitlines()[0]}"
