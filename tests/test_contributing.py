"""The worked examples of CONTRIBUTING.md work: their code is run as if it had been added to the package."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import transformers

from pipeline.arguments import verbs
from pipeline.arguments.data import DataArguments
from pipeline.arguments.settings import Settings
from pipeline.arguments.trainer import FineTuningArguments
from pipeline.config.verbs import VERBS, Verb
from pipeline.data.source_types import SOURCE_TYPES, SourceType
from pipeline.data.sources import load_splits
from pipeline.models.classifier import ImageClassifier
from pipeline.selection.improve import improve
from tests.models import families

TEXT = (Path(__file__).parents[1] / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

Run = Callable[..., tuple[int, str, str]]


def block(start: str) -> str:
    """Return the code block that starts with this text."""
    found: str
    (found,) = (code for code in BLOCKS if code.startswith(start))
    return found


def run_file(file: str, **names: Any) -> ModuleType:
    """Return the example of a file of the package as a module."""
    module = ModuleType(file.removesuffix(".py").replace("/", "."))
    module.__dict__.update(names)
    exec(compile(block(f"# {file}"), file, "exec"), module.__dict__)
    return module


def evaluate_entry(start: str, **names: Any) -> dict[str, Any]:
    """Return the example of an entry of a dictionary as a dictionary."""
    entry: dict[str, Any] = eval("{" + block(start) + "}", names)  # noqa: S307 (our own text)
    return entry


def test_the_backbone_example_trains(
    vit_pipeline: Run, monkeypatch: pytest.MonkeyPatch, photos: Path, tmp_path: Path
) -> None:
    names = {name: getattr(transformers, name) for name in ("MobileNetV2Config", "MobileNetV2ForImageClassification")}
    entry = evaluate_entry('"mobilenet v2"', **vars(families) | names)
    monkeypatch.setattr(families, "FAMILIES", families.FAMILIES | entry)
    families.save("mobilenet v2", tmp_path / "checkpoint")
    flags = ["--max_steps=2", "--per_device_train_batch_size=4", "--precision=fp32", "--dataloader_num_workers=0"]
    model, run = f"--model_name_or_path={tmp_path / 'checkpoint'}", f"--output_dir={tmp_path / 'run'}"
    code, _, err = vit_pipeline("train", model, f"--dataset_name={photos}", run, *flags)
    assert code == 0, err


def test_the_data_source_example_is_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = run_file("pipeline/data/arrays.py")
    names = {"SourceType": SourceType, "Path": Path, "read_npz_file": module.read_npz_file}
    entry = evaluate_entry("# an entry of SOURCE_TYPES", **names)
    for name, source in entry.items():
        monkeypatch.setitem(SOURCE_TYPES, name, source)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=np.arange(20) % 2)
    splits = load_splits(DataArguments(dataset_name=str(tmp_path / "images.npz")))
    assert set(splits) == {"train", "validation"}
    assert len(splits["train"]) + len(splits["validation"]) == 20
    assert splits["train"].features["label"].names == ["0", "1"]


def test_the_verb_example_prints_the_classes(
    vit_pipeline: Run, monkeypatch: pytest.MonkeyPatch, finished_run: Path
) -> None:
    arguments = run_file("pipeline/arguments/verbs.py", **vars(verbs))
    monkeypatch.setattr(verbs, "ClassesArguments", arguments.ClassesArguments, raising=False)
    monkeypatch.setitem(sys.modules, "pipeline.workflows.classes", run_file("pipeline/workflows/classes.py"))
    names = {"Verb": Verb, "ClassesArguments": arguments.ClassesArguments}
    monkeypatch.setitem(VERBS, "classes", evaluate_entry("# an entry of VERBS", **names)["classes"])
    assert vit_pipeline("classes", f"--model={finished_run}") == (0, "blue\ngreen\nred\n", "")
    assert "Run folder or Hub id." in vit_pipeline("classes", "--help")[1]


def test_the_selection_step_example_proposes_a_head_without_bias(finished_run: Path, photos: Path) -> None:
    module = run_file("pipeline/selection/drop_bias.py")
    classifier = ImageClassifier.load(finished_run)
    splits = load_splits(DataArguments(dataset_name=str(photos)))
    settings = Settings(trainer=FineTuningArguments(use_cpu=True))
    proposal = module.propose(classifier, splits, settings)
    assert not proposal.accept().head.bias.any()
    assert classifier.head.bias.any()
    kept, _ = improve(classifier, splits, settings, [("--drop_bias", module.propose)])
    assert kept is classifier or proposal.after > proposal.before
