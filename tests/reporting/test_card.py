"""The model card is valid, agrees with the files of the run, and shows class names literally."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from torchvision.transforms import v2

from pipeline.errors import PipelineError
from pipeline.reporting import card, wording
from pipeline.reporting.card import MAX_CURVE_ROWS, MAX_HARDEST, escape
from pipeline.runs.files import read_json, write_json, write_text
from pipeline.runs.folder import CARD, RECIPE, RECORD, RESULTS, TRAINER_STATE, RunFolder

WORSE = {
    "kind": "folder", "name": "<b>x_1", "images": 40, "accuracy": 0.2, "accuracy_low": 0.1, "accuracy_high": 0.3,
    "others_accuracy": 0.7, "p_value": 0.0004, "is_worse": True,
}  # fmt: skip


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run without its checkpoints."""
    return shutil.copytree(finished_run, tmp_path / finished_run.name, ignore=shutil.ignore_patterns("checkpoint-*"))


def write(run: Path, *, repo_id: str | None = None, **recipe: Any) -> ModelCard:
    """Change the recipe, write the card and load it as the Hub does."""
    write_text(run / RECIPE, yaml.safe_dump(RunFolder(run).arguments | recipe, sort_keys=False))
    card.write(run, repo_id=repo_id)
    loaded: ModelCard = ModelCard.load(run / CARD)
    return loaded


def metadata_of(card: ModelCard) -> dict[str, Any]:
    return dict(card.data.to_dict())


def eval_results(card: ModelCard) -> list[EvalResult]:
    return model_index_to_eval_results(metadata_of(card)["model-index"])[1]


def table_rows(card: ModelCard, start: str) -> list[list[str]]:
    """Return the cells of the table whose header starts with this text. An escaped bar is part of its cell."""
    lines = card.text.splitlines()
    header = next(number for number, line in enumerate(lines) if line.startswith(start))
    body = []
    for line in lines[header + 2 :]:
        if not line.startswith("|"):
            break
        body.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return body


def test_the_metadata_is_valid_and_complete(run: Path) -> None:
    original = (run / CARD).read_text()
    metadata = yaml.safe_load(original.split("---\n")[1])
    assert metadata["library_name"] == "transformers"
    assert metadata["pipeline_tag"] == "image-classification"
    assert {"vision", "image-classification"} < set(metadata["tags"])
    name, results = model_index_to_eval_results(metadata["model-index"])
    assert name == run.name
    assert [result.dataset_split for result in results] == ["validation", "test"]
    assert str(write(run)) == original


def test_the_card_shows_the_metrics_of_the_results(run: Path) -> None:
    results = read_json(run / RESULTS)
    results |= {"eval_accuracy": 0.87654, "test_accuracy": 0.54321, "test_macro_accuracy_low": 0.111}
    results |= {f"{p}_top5_accuracy{end}": 0.9 for p in ("eval", "test") for end in ("", "_low", "_high")}
    write_json(run / RESULTS, results)
    written = write(run)
    assert [(result.metric_type, result.metric_value) for result in eval_results(written)] == [
        ("accuracy", 0.8765),
        ("accuracy", 0.5432),
    ]
    rows = table_rows(written, "| split |")
    for row, prefix, split in zip(rows, ("eval", "test"), ("validation", "test"), strict=True):
        expected = [
            f"{100 * results[f'{prefix}_{key}']:.2f}% "
            f"[{100 * results[f'{prefix}_{key}_low']:.1f}, {100 * results[f'{prefix}_{key}_high']:.1f}]"
            for key in ("accuracy", "top5_accuracy", "macro_accuracy")
        ]
        assert row == [split, "18", *expected]


def test_a_metric_that_was_not_computed_is_a_dash(run: Path) -> None:
    assert [row[3] for row in table_rows(write(run), "| split |")] == ["-", "-"]  # top-5 of three classes


def test_the_validation_curve_shows_the_log_history(run: Path) -> None:
    history = read_json(run / TRAINER_STATE)["log_history"]
    expected = [
        [f"{row['epoch']:g}", f"{row['eval_loss']:.3f}", f"{100 * row['eval_accuracy']:.2f}%"]
        for row in history
        if "eval_loss" in row
    ]
    assert len(expected) == 3
    assert table_rows(write(run), "| epoch |") == expected


@pytest.mark.parametrize("evaluations", [12, 14, 95])
def test_a_long_validation_curve_is_thinned_and_includes_the_last_evaluation(run: Path, evaluations: int) -> None:
    state = read_json(run / TRAINER_STATE)
    entry = next(row for row in state["log_history"] if "eval_loss" in row)
    state["log_history"] = [entry | {"epoch": number} for number in range(1, evaluations + 1)]
    write_json(run / TRAINER_STATE, state)
    epochs = [int(row[0]) for row in table_rows(write(run), "| epoch |")]
    assert epochs[-1] == evaluations
    assert MAX_CURVE_ROWS / 2 <= len(epochs) <= MAX_CURVE_ROWS
    assert len(set(map(int.__sub__, epochs[1:], epochs[:-1]))) == 1


def test_the_card_has_no_placeholders_and_no_paths(run: Path) -> None:
    text = write(run).content
    assert "More Information" not in text
    assert "more information needed" not in text.lower()
    assert "{{" not in text
    assert "{%" not in text
    assert "None" not in text
    assert str(run.parent) not in text


ODD_NAMES = [
    "<script>", "a|b", "*x*", "_y_", "`z`", "[link](http://x)", "back\\slash", "~~no~~", "two\nlines", "plain rose",
]  # fmt: skip


def test_class_names_are_shown_literally(run: Path) -> None:
    results = read_json(run / RESULTS)
    row = results["test_per_class"]["red"]
    results["test_per_class"] = {name: row | {"accuracy": number / 10} for number, name in enumerate(ODD_NAMES)}
    write_json(run / RESULTS, results)
    written = write(run)
    table = table_rows(written, "| class |")
    assert [len(cells) for cells in table] == [3] * len(ODD_NAMES)
    assert [re.sub(r"\\(.)", r"\1", cells[0]) for cells in table] == [name.replace("\n", " ") for name in ODD_NAMES]
    assert all(re.search(r"(?<!\\)[*_`\[\]<>~]", cells[0]) is None for cells in table)
    assert "<script" not in re.sub(r"\\<", "", written.content)


def test_escape_adds_one_backslash_per_special_character() -> None:
    assert escape("a|b*<i>") == r"a\|b\*\<i\>"
    assert escape("  many   blanks ") == "many blanks"
    assert escape("Löwenzahn & Co. (2)") == "Löwenzahn & Co. (2)"


def test_only_the_hardest_classes_are_shown_hardest_first(run: Path) -> None:
    results = read_json(run / RESULTS)
    row = results["test_per_class"]["red"]
    results["test_per_class"] = {
        f"c{number}": row | {"accuracy": number / 20, "samples": number} for number in range(20)
    }
    write_json(run / RESULTS, results)
    table = table_rows(write(run), "| class |")
    assert [cells[:2] for cells in table] == [[f"c{number}", str(number)] for number in range(MAX_HARDEST)]


def test_a_run_on_local_files_names_no_hub_repository(run: Path) -> None:
    written = write(run)
    assert not {"base_model", "datasets"} & metadata_of(written).keys()
    assert "fine-tuned from `tiny-vit" in written.text


def test_a_run_on_hub_repositories_names_them(run: Path) -> None:
    written = write(run, model_name_or_path="google/vit-base-patch16-224-in21k", dataset_name="huggan/flowers-102")
    assert metadata_of(written)["base_model"] == "google/vit-base-patch16-224-in21k"
    assert metadata_of(written)["datasets"] == "huggan/flowers-102"
    assert {result.dataset_type for result in eval_results(written)} == {"huggan/flowers-102"}
    assert "fine-tuned from `google/vit-base-patch16-224-in21k`" in written.text


def test_a_run_from_scratch_names_no_base_model(run: Path) -> None:
    written = write(run, model_name_or_path="google/vit-base-patch16-224-in21k", from_scratch=True)
    assert "base_model" not in metadata_of(written)
    assert "trained from scratch" in written.text
    assert "fine-tuned" not in written.text
    assert "from_scratch: true" in written.text


def test_a_shipped_base_is_not_a_hub_repository(run: Path) -> None:
    written = write(run, model_name_or_path="synthetic-flowers-base", dataset_name="synthetic-flowers")
    assert not {"base_model", "datasets"} & metadata_of(written).keys()
    assert "fine-tuned from `synthetic-flowers-base` on synthetic-flowers" in written.text


def test_the_code_example_names_the_hub_repository_if_there_is_one(run: Path) -> None:
    assert f'pipeline("image-classification", model="{run.name}")' in write(run).text
    written = write(run, repo_id="me/my_flowers")
    assert 'pipeline("image-classification", model="me/my_flowers")' in written.text
    assert r"# my\_flowers" in written.text.splitlines()


def test_a_run_without_a_test_split_warns_about_its_accuracy(run: Path) -> None:
    assert "the test split was evaluated once." in write(run).text
    results = read_json(run / RESULTS)
    write_json(run / RESULTS, {k: v for k, v in results.items() if not k.startswith("test_")})
    written = write(run)
    assert "there was no test split, so expect a lower accuracy on new images" in written.text
    assert "evaluated once" not in written.text
    assert "Classes with the lowest accuracy on the validation split:" in written.text
    assert [result.dataset_split for result in eval_results(written)] == ["validation"]


def test_an_unwritable_card_is_reported(run: Path) -> None:
    (run / CARD).unlink()
    (run / CARD).mkdir()
    with pytest.raises(PipelineError, match=r"cannot write .*README\.md"):
        card.write(run)


@pytest.mark.parametrize(
    ("recipe", "description"),
    [
        ({}, "random resized crop (at least 8% of the area), horizontal flip (probability 0.5)"),
        ({"augmentation": "none"}, "none"),
        ({"augmentation": "none", "patch_drop_rate": 0.25}, "patch dropout (25%)"),
        (
            {"augmentation": "rand", "crop_scale": 0.5, "hflip": 0.0},
            "random resized crop (at least 50% of the area), no horizontal flip, RandAugment",
        ),
        (
            {"augmentation": "trivial", "random_erasing": 0.25, "mixup": 0.8, "cutmix": 1.0},
            (
                "random resized crop (at least 8% of the area), horizontal flip (probability 0.5), TrivialAugmentWide, "
                "random erasing (probability 0.25), mixup (alpha 0.8), cutmix (alpha 1)"
            ),
        ),
    ],
)
def test_the_card_describes_the_augmentation(run: Path, recipe: dict[str, Any], description: str) -> None:
    assert f"- Augmentation: {description}." in write(run, **recipe).text.splitlines()


def test_policy_names_are_classes_of_torchvision() -> None:
    assert all(issubclass(getattr(v2, name), v2.Transform) for name in wording._POLICY_NAMES.values())


def test_importing_the_card_loads_no_torch() -> None:
    code = (
        "import sys; import pipeline.reporting.card; print([m for m in ('torch', 'torchvision') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_card_shows_throughput_mfu_and_data_wait(run: Path) -> None:
    record = read_json(run / RECORD)
    speed = {"images_per_second": 812.3, "mfu": 0.52, "data_wait": 0.0123}
    write_json(run / RECORD, record | {"speed": speed})
    line = "- Throughput: 812.3 images/s, 52% of the measured matmul rate (MFU), data wait 1.2%."
    assert line in write(run).text.splitlines()
    write_json(run / RECORD, record | {"speed": None})
    assert "Throughput" not in write(run).text


@pytest.mark.parametrize(("after", "head"), [(0.9, "refitted"), (0.8, "trained")])
def test_the_card_compares_the_refitted_head_with_the_trained_head(run: Path, after: float, head: str) -> None:
    results = read_json(run / RESULTS)
    write_json(run / RESULTS, results | {"trained_head_eval_accuracy": 0.8742, "refit_eval_accuracy": after})
    (line,) = (line for line in write(run).text.splitlines() if "refitted by logistic regression" in line)
    assert f"validation accuracy {after:.2%}, compared with 87.42% for the trained head. The {head} head" in line


def test_the_card_names_both_resolutions_after_fixres(run: Path) -> None:
    assert "- Input resolution: 16 px." in write(run).text.splitlines()
    write_json(run / RESULTS, read_json(run / RESULTS) | {"train_image_size": 12})
    assert "- Input resolution: 12 px for training, 16 px for evaluation." in write(run).text.splitlines()


def test_the_card_shows_the_number_of_processes(run: Path) -> None:
    record = read_json(run / RECORD)
    write_json(run / RECORD, record | {"machine": {"device": "cuda", "processes": 4, "precision": "bf16"}})
    assert " minutes on 4 x cuda in bf16." in write(run).text


def test_the_card_shows_what_was_decided_about_the_data(run: Path) -> None:
    record = read_json(run / RECORD)
    record["data"] |= {"name": "my_photos", "source": "class folders", "notes": ["ignoring 'a|b'", "merging *c*"]}
    write_json(run / RECORD, record)
    section = write(run).text.partition("## Data")[2].partition("##")[0]
    assert section.strip().splitlines() == [
        r"my\_photos was read as class folders: 36 train, 18 validation, 18 test images.",
        "",
        r"- ignoring 'a\|b'",
        r"- merging \*c\*",
        "- The audit of the data found no issue.",
    ]
    del record["data"]["source"]  # a run of an earlier version
    write_json(run / RECORD, record)
    assert "## Data" not in write(run).text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("google/vit-base", "`google/vit-base`"),
        ("x<script>alert(1)</script>", "`x<script>alert(1)</script>`"),
        ("x` <img src=//evil>", "x\\` \\<img src=//evil\\>"),
        ("x\x1b[31m", "`x⟨U+001B⟩[31m`"),
        ("a\n\n# b", "`a # b`"),
    ],
)
def test_the_name_of_a_base_model_is_shown_literally(name: str, shown: str) -> None:
    assert card.as_code(name) == shown
    assert "\x1b" not in card.escape(name)


def test_slices_on_which_the_model_is_worse_are_named(run: Path) -> None:
    assert "## Weaknesses" not in write(run).text
    results = read_json(run / RESULTS)
    results["test_slices"] = [WORSE, WORSE | {"kind": "brightness", "name": "0% to 9%", "is_worse": False}]
    write_json(run / RESULTS, results)
    weaknesses = write(run).text.partition("## Weaknesses")[2].partition("## ")[0]
    (line,) = (line for line in weaknesses.splitlines() if line)
    assert line == (
        r"- The model is significantly worse on images in folder \<b\>x\_1: 20.00% \[10.0, 30.0\] of 40 images are "
        "classified correctly, compared with 70.00% of the other images."
    )


def test_the_card_says_what_a_repetition_would_not_repeat(run: Path) -> None:
    before = card.render(run)
    RunFolder(run).update(
        overridden=[
            {"changes": [{"name": "seed", "before": 1, "now": 2}, {"name": "torch", "before": "2", "now": "3"}]}
        ],
        rewinds=[{"diverged_at": 1500, "resumed_from": 1200, "learning_rate": 5e-5}],
    )
    added = set(card.render(run).splitlines()) - set(before.splitlines())
    changed = "The run was interrupted and continued with changes: seed from 1 to 2, torch from 2 to 3."
    assert added == {
        f"{changed} A repetition will differ.",
        "Training diverged, and continued from step 1,200 with the learning rate 5e-05.",
    }
