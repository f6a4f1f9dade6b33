"""The entries of a race in their order, compared with the best one: the content of `race.json`."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.evaluation.comparison import Comparison, compare_correct
from pipeline.evaluation.confidence import wilson_interval
from pipeline.evaluation.slices.find import SIGNIFICANCE, holm
from pipeline.racing.entry import ENSEMBLE, Answers, Entry


def best_of(entries: Sequence[Entry]) -> Entry | None:
    """Return the most accurate entry on validation that can be saved; the fastest of several. None if all failed."""
    return max(filter(lambda each: each.can_be_chosen, entries), key=_key, default=None)


def rank(entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries, the most accurate on validation first, failures last."""
    return sorted(entries, key=_key, reverse=True)


def standings(entries: Sequence[Entry], *, folder: Path) -> dict[str, Any]:
    """Return rows and sentences.

    Args:
        entries: All entries; the chosen one has been scored on test if there are test images.
        folder: Folder of the race, to which the folders of the models are relative.
    """
    ranked, best = rank(entries), best_of(entries)
    others = [each for each in ranked if each is not best and each.validation is not None]
    compared = [_compare(each, best) for each in others] if best is not None else []
    corrected = holm([each.p_value for each in compared])
    tests = {id(each): (found, float(p)) for each, found, p in zip(others, compared, corrected, strict=True)}
    rows = [_row(number, each, best, tests.get(id(each)), folder) for number, each in enumerate(ranked, 1)]
    return {"rows": rows, "conclusions": _conclusions(rows)}


def p_text(row: Mapping[str, Any]) -> str:
    """Return the p-value of a row."""
    return "p < 0.001" if row["p_value"] < 0.001 else f"p = {row['p_value']:.2g}"


def _key(entry: Entry) -> tuple[float, float]:
    return entry.accuracy, (entry.cost and entry.cost.predict_images_per_second) or 0.0


def _compare(entry: Entry, best: Entry) -> Comparison:
    assert entry.validation is not None
    assert best.validation is not None
    assert np.array_equal(entry.validation.labels, best.validation.labels), "not the same images in the same order"
    return compare_correct(entry.validation.correct, best.validation.correct)


def _row(
    number: int, entry: Entry, best: Entry | None, test: tuple[Comparison, float] | None, folder: Path
) -> dict[str, Any]:
    """Return an entry as plain values. Accuracies are fractions."""
    cost = dataclasses.asdict(entry.cost) if entry.cost is not None else {}
    return {
        "rank": number,
        "backbone": entry.backbone,
        "strategy": entry.strategy,
        "chosen": entry is best,
        "error": entry.error,
        **_accuracy("validation", entry.validation),
        "p_value": None if test is None else test[1],
        "only_this_correct": None if test is None else test[0].only_model,
        "only_chosen_correct": None if test is None else test[0].only_against,
        "tied": test is not None and test[1] >= SIGNIFICANCE,
        **_accuracy("test", entry.test),
        **{name: cost.get(name) for name in (
            "parameters", "gflops", "input_size", "train_images_per_second", "predict_images_per_second", "memory_gb",
        )},
        "license": entry.license,
        "folder": None if entry.folder is None else str(entry.folder.relative_to(folder)),
    }  # fmt: skip


def _accuracy(split: str, answers: Answers | None) -> dict[str, Any]:
    keys = ("accuracy", "accuracy_low", "accuracy_high", "samples")
    if answers is None:
        return {f"{split}_{key}": None for key in keys}
    correct, images = int(answers.correct.sum()), len(answers.labels)
    low, high = wilson_interval(correct, images)
    values = (correct / images, float(low), float(high), images)
    return {f"{split}_{key}": value for key, value in zip(keys, values, strict=True)}


def _conclusions(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return what the rows say, as sentences."""
    best = next((row for row in rows if row["chosen"]), None)
    if best is None:
        return ["No backbone could be compared."]
    models = [row for row in rows if row["validation_accuracy"] is not None and row["strategy"] != ENSEMBLE]
    said = [f"{_name(best)} has the highest validation accuracy of the models that can be saved."]
    if len(models) > 1:
        said.append(_ties(best, [row for row in models if row["tied"]]))
    for row in rows:
        if row["strategy"] == ENSEMBLE:
            points = 100 * (row["validation_accuracy"] - best["validation_accuracy"])
            verdict = "within noise of it" if row["tied"] else "a significant difference"
            said.append(f"The soft vote differs from it by {points:+.2f} points: {verdict} ({p_text(row)}).")
    chosen_among = f"Validation chose among {len(models)} entries, so its accuracy is optimistic."
    if best["test_accuracy"] is None:
        said.append(f"{chosen_among} The data lack a test split.")
    else:
        said.append(f"{chosen_among} Test accuracies were not used to choose.")
    return said


def _ties(best: dict[str, Any], tied: Sequence[dict[str, Any]]) -> str:
    method = "exact McNemar tests, corrected by Holm"
    if not tied:
        return f"It is significantly more accurate than every other model ({method})."
    fastest = max([best, *tied], key=lambda row: row["predict_images_per_second"] or 0.0)
    names = ", ".join(f"{_name(row)} ({p_text(row)})" for row in tied)
    says = f"Within noise of it ({method}): {names}."
    if fastest is not best and best["predict_images_per_second"]:
        ratio = fastest["predict_images_per_second"] / best["predict_images_per_second"]
        says += f" Of these, {_name(fastest)} predicts fastest, {ratio:.1f} times as fast as the most accurate one."
    return says


def _name(row: dict[str, Any]) -> str:
    return f"{row['backbone']} ({row['strategy']})"
