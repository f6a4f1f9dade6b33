"""The card is valid, says what the files say, and shows names of classes as they are."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from pipeline.errors import PipelineError
from pipeline.reporting import card
from pipeline.reporting.card import CURVE_ROWS, HARDEST, escape
from pipeline.runs.files import read_json, write_json, write_text
from pipeline.runs.folder import CARD, RECIPE, RECORD, RESULTS, TRAINER_STATE, RunFolder


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, without its checkpoints."""
    return shutil.copytree(finished_run, tmp_path / "colours", ignore=shutil.ignore_patterns("checkpoint-*"))


def write(run: Path, *, repo_id: str | None = None, **recipe: Any) -> ModelCard:
    """Write the card, its recipe changed, and read it as the Hub does."""
    write_text(run / RECIPE, yaml.safe_dump(RunFolder(run).arguments | recipe, sort_keys=False))
    card.write(run, repo_id=repo_id)
    loaded: ModelCard = ModelCard.load(run / CARD)
    return loaded


def front(card: ModelCard) -> dict[str, Any]:
    return dict(card.data.to_dict())


def figures(card: ModelCard) -> list[EvalResult]:
    return model_index_to_eval_results(front(card)["model-index"])[1]


def rows(card: ModelCard, start: str) -> list[list[str]]:
    """The cells of the table whose head begins so; an escaped bar is part of its cell."""
    lines = card.text.splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith(start))
    body = []
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return body


def test_the_front_matter_is_valid_and_complete(run: Path) -> None:
    before = (run / CARD).read_text()
    metadata = yaml.safe_load(before.split("---\n")[1])
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "image-classification"
    assert {"vision", "image-classification"} < set(metadata["tags"])
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == "colours"
    assert [result.dataset_split for result in results] == ["validation", "test"]
    assert str(write(run)) == before


def test_the_figures_are_those_of_the_results(run: Path) -> None:
    results = read_json(run / RESULTS)
    results |= {"eval_accuracy": 0.87654, "test_accuracy": 0.54321, "test_macro_accuracy_low": 0.111}
    results |= {f"{p}_top5_accuracy{end}": 0.9 for p in ("eval", "test") for end in ("", "_low", "_high")}
    write_json(run / RESULTS, results)
    written = write(run)
    assert [(result.metric_type, result.metric_value) for result in figures(written)] == [
        ("accuracy", 0.8765),
        ("accuracy", 0.5432),
    ]
    for row, prefix, split in zip(rows(written, "| split |"), ("eval", "test"), ("validation", "test"), strict=True):
        expected = [
            f"{100 * results[f'{prefix}_{key}']:.2f} % "
            f"[{100 * results[f'{prefix}_{key}_low']:.1f}, {100 * results[f'{prefix}_{key}_high']:.1f}]"
            for key in ("accuracy", "top5_accuracy", "macro_accuracy")
        ]
        assert row == [split, "18", *expected]


def test_the_curve_is_that_of_the_history(run: Path) -> None:
    history = read_json(run / TRAINER_STATE)["log_history"]
    expected = [
        [f"{row['epoch']:g}", f"{row['eval_loss']:.3f}", f"{100 * row['eval_accuracy']:.2f} %"]
        for row in history
        if "eval_loss" in row
    ]
    assert len(expected) == 3
    assert rows(write(run), "| epoch |") == expected


@pytest.mark.parametrize("evaluations", [12, 14, 95])
def test_a_long_curve_is_thinned_and_keeps_its_end(run: Path, evaluations: int) -> None:
    state = read_json(run / TRAINER_STATE)
    entry = next(row for row in state["log_history"] if "eval_loss" in row)
    state["log_history"] = [entry | {"epoch": number} for number in range(1, evaluations + 1)]
    write_json(run / TRAINER_STATE, state)
    shown = [int(row[0]) for row in rows(write(run), "| epoch |")]
    assert shown[-1] == evaluations
    assert CURVE_ROWS / 2 <= len(shown) <= CURVE_ROWS
    assert len(set(map(int.__sub__, shown[1:], shown[:-1]))) == 1


def test_nothing_is_left_to_fill_in(run: Path) -> None:
    text = write(run).content
    assert "More Information" not in text
    assert "more information needed" not in text.lower()
    assert "{{" not in text
    assert "{%" not in text
    assert "None" not in text
    assert str(run.parent) not in text


ODD = ["<script>", "a|b", "*x*", "_y_", "`z`", "[link](http://x)", "back\\slash", "~~no~~", "two\nlines", "plain rose"]


def test_names_of_classes_are_shown_as_they_are(run: Path) -> None:
    results = read_json(run / RESULTS)
    row = results["test_per_class"]["red"]
    results["test_per_class"] = {name: row | {"accuracy": number / 10} for number, name in enumerate(ODD)}
    write_json(run / RESULTS, results)
    written = write(run)
    table = rows(written, "| class |")
    assert [len(cells) for cells in table] == [3] * len(ODD)
    assert [re.sub(r"\\(.)", r"\1", cells[0]) for cells in table] == [name.replace("\n", " ") for name in ODD]
    assert all(re.search(r"(?<!\\)[*_`\[\]<>~]", cells[0]) is None for cells in table)
    assert "<script" not in re.sub(r"\\<", "", written.content)


def test_a_name_is_escaped_once() -> None:
    assert escape("a|b*<i>") == r"a\|b\*\<i\>"
    assert escape("  many   blanks ") == "many blanks"
    assert escape("Löwenzahn & Co. (2)") == "Löwenzahn & Co. (2)"


def test_the_hardest_classes_come_first_and_are_few(run: Path) -> None:
    results = read_json(run / RESULTS)
    row = results["test_per_class"]["red"]
    results["test_per_class"] = {
        f"c{number}": row | {"accuracy": number / 20, "samples": number} for number in range(20)
    }
    write_json(run / RESULTS, results)
    table = rows(write(run), "| class |")
    assert [cells[:2] for cells in table] == [[f"c{number}", str(number)] for number in range(HARDEST)]


def test_a_run_on_local_files_names_no_repository(run: Path) -> None:
    written = write(run)
    assert not {"base_model", "datasets"} & front(written).keys()
    assert "fine-tuned from `tiny-vit" in written.text


def test_repositories_of_the_hub_are_named(run: Path) -> None:
    written = write(run, model_name_or_path="google/vit-base-patch16-224-in21k", dataset_name="huggan/flowers-102")
    assert front(written)["base_model"] == "google/vit-base-patch16-224-in21k"
    assert front(written)["datasets"] == "huggan/flowers-102"
    assert {result.dataset_type for result in figures(written)} == {"huggan/flowers-102"}
    assert "fine-tuned from `google/vit-base-patch16-224-in21k`" in written.text


def test_from_scratch_names_no_base_model(run: Path) -> None:
    written = write(run, model_name_or_path="google/vit-base-patch16-224-in21k", from_scratch=True)
    assert "base_model" not in front(written)
    assert "trained from scratch" in written.text
    assert "fine-tuned" not in written.text
    assert "from_scratch: true" in written.text


def test_a_shipped_base_is_no_repository_of_the_hub(run: Path) -> None:
    written = write(run, model_name_or_path="synthetic-flowers-base", dataset_name="synthetic-flowers")
    assert not {"base_model", "datasets"} & front(written).keys()
    assert "fine-tuned from `synthetic-flowers-base` on synthetic-flowers" in written.text


def test_the_code_sample_names_the_repository_once_there_is_one(run: Path) -> None:
    assert 'pipeline("image-classification", model="colours")' in write(run).text
    written = write(run, repo_id="me/my_flowers")
    assert 'pipeline("image-classification", model="me/my_flowers")' in written.text
    assert r"# my\_flowers" in written.text.splitlines()


def test_without_a_test_split_it_warns(run: Path) -> None:
    results = read_json(run / RESULTS)
    write_json(run / RESULTS, {k: v for k, v in results.items() if not k.startswith("test_")})
    written = write(run)
    assert "there was no test split, so new images will score lower" in written.text
    assert "scored once" not in written.text
    assert "On validation, lowest first" in written.text
    assert [result.dataset_split for result in figures(written)] == ["validation"]


def test_a_card_that_cannot_be_written_is_explained(run: Path) -> None:
    (run / CARD).unlink()
    (run / CARD).mkdir()
    with pytest.raises(PipelineError, match=r"cannot write .*README\.md"):
        card.write(run)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({}, "random resized crops of 8 % of the area or more, flipped with probability 0.5. The best"),
        ({"augmentation": "none"}, "no augmentation. The best"),
        (
            {"augmentation": "rand", "crop_scale": 0.5, "hflip": 0.0},
            "of 50 % of the area or more, not flipped, then RandAug",
        ),
    ],
)
def test_the_card_says_what_was_drawn_for_training(run: Path, recipe: dict[str, Any], said: str) -> None:
    assert said in " ".join(write(run, **recipe).text.split())


def test_the_card_counts_the_processes(run: Path) -> None:
    record = read_json(run / RECORD)
    write_json(run / RECORD, record | {"machine": {"device": "cuda", "processes": 4, "precision": "bf16"}})
    assert "on 4 x cuda in bf16" in " ".join(write(run).text.split())
