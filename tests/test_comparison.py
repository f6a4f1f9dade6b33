"""The claims of .github/COMPARISON.md that no other test covers, and the tests that it names exist."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from datasets import Dataset
from torch.optim.lr_scheduler import OneCycleLR
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, ViTConfig

from pipeline.runs.files import read_json
from pipeline.runs.folder import TRAINER_STATE

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".github" / "COMPARISON.md").read_text(encoding="utf-8")


def rows() -> list[list[str]]:
    """Return the cells of every table row, without the headers."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[-1] != "test" and not set(row[0]) <= {"-"}]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_every_row_names_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 3
    named = re.findall(r'\]\(\.\./(tests/[\w/]+\.py) "(test_\w+)"\)', row[2])
    assert len(named) == row[2].count("](") > 0
    for file, function in named:
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), (function, file)


def test_the_notebook_keeps_the_head_of_the_checkpoint(tiny_vit: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(tiny_vit)
    model.config.num_labels = 3
    assert model(pixel_values=torch.zeros(1, 3, 16, 16)).logits.shape == (1, 5)


def test_the_notebook_s_learning_rate_stays_near_the_start_of_its_schedule() -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = OneCycleLR(optimizer, max_lr=1e-3, total_steps=32 * 20)
    rates = []
    for _ in range(15):  # epochs
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(4e-5)
    assert rates[-1] == max(rates) == pytest.approx(5.3e-5, rel=0.01)


def test_the_learning_rate_changes_at_every_step(finished_run: Path) -> None:
    log = read_json(finished_run / TRAINER_STATE)["log_history"]
    rates = [row["learning_rate"] for row in log if "learning_rate" in row]
    assert len(rates) == 18  # three epochs of six steps
    assert all(before != after for before, after in itertools.pairwise(rates))
    assert rates[-1] < max(rates) / 10


def test_vit_b_has_12_heads_and_vit_l_has_16() -> None:
    config = ViTConfig()
    assert (config.hidden_size, config.num_attention_heads, config.patch_size) == (768, 12, 16)
    with torch.device("meta"):
        large: Any = timm.create_model("vit_large_patch32_384")
    assert (large.blocks[0].attn.num_heads, large.patch_embed.patch_size) == (16, (32, 32))


def test_the_stock_trainer_drops_the_image_column(tiny_vit: Path, tmp_path: Path) -> None:
    rows = Dataset.from_dict({"image": [[0.0]], "label": [0]})
    rows.set_transform(lambda batch: {"pixel_values": batch["image"], "labels": batch["label"]})
    model = AutoModelForImageClassification.from_pretrained(tiny_vit)
    trainer = Trainer(model, TrainingArguments(str(tmp_path), use_cpu=True, report_to="none"), train_dataset=rows)
    with pytest.raises((KeyError, ValueError)):
        next(iter(trainer.get_train_dataloader()))


def test_from_pretrained_resamples_position_embeddings_of_another_resolution(tiny_vit: Path) -> None:
    first, second = (
        AutoModelForImageClassification.from_pretrained(tiny_vit, image_size=32, ignore_mismatched_sizes=True)
        for _ in range(2)
    )
    name = "vit.embeddings.position_embeddings"
    assert not torch.equal(first.state_dict()[name], second.state_dict()[name])
