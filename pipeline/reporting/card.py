"""The model card, from the files of a run folder and nothing else. Its text is `assets/model_card.md`."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pipeline import hub
from pipeline.arguments.images import AugmentationArguments
from pipeline.images.augmentation import _POLICIES
from pipeline.reporting import summary
from pipeline.runs.files import read_json, remove_absolute_path, write_text
from pipeline.runs.folder import CARD, RESULTS, TRAINER_STATE, RunFolder, public_recipe


def _describe_augmentation(args: AugmentationArguments) -> str:
    """Say in words what is drawn."""
    unseen = f", {100 * args.patch_drop_rate:g} % of the patches not seen" if args.patch_drop_rate else ""
    if args.augmentation == "none":
        return f"no augmentation{unseen}"
    flip = f", flipped with probability {args.hflip:g}" if args.hflip else ", not flipped"
    more = f", then {_POLICIES[args.augmentation].__name__}" if args.augmentation in _POLICIES else ""
    blank = f", a rectangle blanked with probability {args.random_erasing:g}" if args.random_erasing else ""
    return f"random resized crops of {100 * args.crop_scale:g} % of the area or more{flip}{more}{blank}{unseen}"


TEMPLATE = hub.ASSETS / "model_card.md"
HARDEST = 10
CURVE_ROWS = 12


def write(folder: Path, *, repo_id: str | None = None) -> None:
    """Write README.md of a run.

    Args:
        folder: Run folder with results, state, recipe and record.
        repo_id: The Hub repository it goes to, for the code sample; the folder's name where there is none yet.

    Raises:
        PipelineError: If the folder cannot be written.
    """
    run = RunFolder(folder)
    results = read_json(folder / RESULTS)
    record, recipe = run.record, run.arguments
    base, data_id = (
        recipe[key] if hub.is_hub_id(recipe[key]) else None for key in ("model_name_or_path", "dataset_name")
    )
    data = ModelCardData(
        model_name=folder.name,
        base_model=None if recipe.get("from_scratch") else base,
        datasets=data_id,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["vision", "image-classification", "vit-pipeline"],
        metrics=["accuracy"],
        eval_results=_eval_results(results, record["data"], data_id),
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=escape(repo_id.partition("/")[2] if repo_id else folder.name),
        repo=repo_id or folder.name,
        **_body(folder, results, record, recipe),
    )
    write_text(folder / CARD, str(card))


def escape(text: str) -> str:
    """A class name as Markdown shows it literally: folder names are input, and may hold markup."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", " ".join(text.split()))


def _body(
    folder: Path, results: Mapping[str, Any], record: Mapping[str, Any], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    model = read_json(folder / "config.json")
    hardest_prefix = "test" if "test_per_class" in results else "eval"
    adapted = "a linear probe on" if recipe.get("strategy") == "head" else "fine-tuned from"
    origin = "trained from scratch" if recipe.get("from_scratch") else f"{adapted} `{_name(recipe)}`"
    return {
        "architecture": model["architectures"][0],
        "origin": origin,
        "data_name": escape(Path(str(recipe["dataset_name"])).name),
        "num_classes": record["data"]["classes"],
        "samples": record["data"]["samples"],
        "scores": [_scores(results, prefix) for prefix in ("eval", "test") if f"{prefix}_accuracy" in results],
        "has_test": "test_accuracy" in results,
        "hardest_split": summary.SPLITS[hardest_prefix],
        "hardest": _hardest(results[f"{hardest_prefix}_per_class"]),
        "fitted": _fitted(folder / TRAINER_STATE),
        "probe": _probe(results),
        "speed": _speed(record.get("speed")),
        "refit": _refit(results),
        "chosen_by": recipe.get("metric_for_best_model", "accuracy"),
        "machine": _machine(record["machine"]),
        "precision": record["machine"]["precision"],
        "minutes": f"{record['timings']['train'] / 60:.1f}",
        "train_image_size": results.get("train_image_size"),
        "image_size": _input_side(read_json(folder / "preprocessor_config.json")),
        "augmentation": _describe_augmentation(_augmentation(recipe)),
        "recipe": public_recipe(folder).strip(),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }


def _fitted(file: Path) -> dict[str, Any] | None:
    """What the Trainer did, where it did anything."""
    if not file.exists():
        return None
    state = read_json(file)
    return {
        "epochs": f"{state['epoch']:g}",
        "steps": state["global_step"],
        "best_step": state["best_global_step"],
        "curve": _curve(state["log_history"]),
    }


def _probe(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a linear probe reached, and with how many labels."""
    if "probe_eval_accuracy" not in results:
        return None
    curve = [row | {"accuracy": f"{100 * row['accuracy']:.2f} %"} for row in results["learning_curve"]]
    return {"accuracy": f"{100 * results['probe_eval_accuracy']:.2f} %", "C": f"{results['probe_C']:g}", "curve": curve}


def _refit(results: Mapping[str, Any]) -> str:
    """What the head that was fitted anew reached, and whether it was taken."""
    if "refit_eval_accuracy" not in results:
        return ""
    before, after = (results[f"{name}_eval_accuracy"] for name in ("trained_head", "refit"))
    return (
        "A head fitted anew on the features of the trained network, by logistic regression, reached "
        f"{100 * after:.2f} % on validation against {100 * before:.2f} %, and was "
        f"{'taken' if after > before else 'not taken'}."
    )


def _speed(speed: Mapping[str, Any] | None) -> str:
    """How fast the training was, against what the machine can."""
    if not speed:
        return ""
    share = f", {100 * speed['mfu']:.0f} % of the machine's matrix products" if speed.get("mfu") else ""
    wait = f"{100 * speed['data_wait']:.1f} % of the time it waited for data"
    return f"{speed['images_per_second']:.4g} images a second{share}; {wait}."


def _scores(results: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    figures = {key: summary.percent(results, f"{prefix}_{key}", "").strip() or "-" for key in summary.ACCURACIES}
    return {"split": summary.SPLITS[prefix], "samples": results[f"{prefix}_samples"]} | figures


def _hardest(per_class: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    ranked = sorted(per_class.items(), key=lambda item: item[1]["accuracy"])[:HARDEST]
    return [
        {
            "name": escape(name),
            "samples": row["samples"],
            "accuracy": summary.percent(row, "accuracy", "").strip(),
        }
        for name, row in ranked
    ]


def _input_side(processor: Mapping[str, Any]) -> int:
    size = processor["crop_size"] if processor.get("do_center_crop") else processor["size"]
    side: int = size.get("height") or size["shortest_edge"]
    return side


def _curve(history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """At most a dozen evaluations, evenly spread, the last among them."""
    rows = [row for row in history if "eval_accuracy" in row]
    step = -(-len(rows) // CURVE_ROWS)
    return [
        {
            "epoch": f"{row['epoch']:g}",
            "loss": f"{row['eval_loss']:.3f}",
            "accuracy": f"{100 * row['eval_accuracy']:.2f} %",
        }
        for row in rows[::-1][::step][::-1]
    ]


def _eval_results(results: Mapping[str, Any], data: Mapping[str, Any], data_id: str | None) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=data_id or str(data["name"]),
            dataset_name=str(data["name"]),
            dataset_revision=data["revision"] if data_id else None,
            dataset_split=summary.SPLITS[prefix],
            metric_type="accuracy",
            metric_name=f"{summary.SPLITS[prefix]} accuracy",
            metric_value=round(results[f"{prefix}_accuracy"], 4),
        )
        for prefix in ("eval", "test")
        if f"{prefix}_accuracy" in results
    ]


def _machine(machine: Mapping[str, Any]) -> str:
    several = f"{machine['processes']} x " if machine["processes"] > 1 else ""
    return f"{several}{machine['device']}"


def _augmentation(recipe: Mapping[str, Any]) -> AugmentationArguments:
    known = {f.name for f in dataclasses.fields(AugmentationArguments)}
    return AugmentationArguments(**{key: value for key, value in recipe.items() if key in known})


def _name(recipe: Mapping[str, Any]) -> str:
    return remove_absolute_path(str(recipe["model_name_or_path"]))
