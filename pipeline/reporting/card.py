"""The model card of a run, rendered from the template `assets/model_card.md` and the files of the run folder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from pipeline.config.names import ASSETS, is_hub_id
from pipeline.errors import visible
from pipeline.reporting import summary, wording
from pipeline.runs.files import read_json, write_text
from pipeline.runs.folder import CARD, PLOTS, POOLED_MODEL_TYPE, RESULTS, TRAINER_STATE, RunFolder
from pipeline.runs.publish import public_recipe

TEMPLATE = ASSETS / "model_card.md"
MAX_HARDEST = 10
MAX_SLICES = 5
MAX_CURVE_ROWS = 12


def write(folder: Path, *, repo_id: str | None = None) -> None:
    """Write the model card of a run to README.md, see `render`.

    Raises:
        PipelineError: If the file cannot be written.
    """
    write_text(folder / CARD, render(folder, repo_id=repo_id))


def render(folder: Path, *, repo_id: str | None = None) -> str:
    """Return the model card of a run.

    Args:
        folder: Run folder with results, Trainer state, recipe and record.
        repo_id: Hub repository for the code example. Default: the name of the folder.
    """
    run = RunFolder(folder)
    results = read_json(folder / RESULTS)
    record, recipe = run.record, run.arguments
    backbone = _pooled_backbone(read_json(folder / "config.json"))
    base, data_id = (recipe[key] if is_hub_id(recipe[key]) else None for key in ("model_name_or_path", "dataset_name"))
    metadata = ModelCardData(
        model_name=folder.name,
        base_model=None if recipe.get("from_scratch") else base,
        datasets=data_id,
        library_name="vit-pipeline" if backbone else "transformers",
        pipeline_tag="image-classification",
        tags=["vision", "image-classification", "vit-pipeline"],
        metrics=["accuracy"],
        eval_results=_eval_results(results, record["data"], data_id),
    )
    card = ModelCard.from_template(
        metadata,
        template_path=str(TEMPLATE),
        title=escape(repo_id.partition("/")[2] if repo_id else folder.name),
        backbone=backbone,
        repo=re.sub(r"[^\w./ -]", "_", repo_id or folder.name),  # it stands in code
        **_template_values(folder, results, record, recipe),
    )
    return str(card)


def escape(text: str) -> str:
    """Escape Markdown and HTML in a text of the user, such as a class name, so that it is shown literally."""
    return re.sub(r"([\\`*_\[\]<>|~])", r"\\\1", visible(" ".join(text.split())))


def as_code(text: str) -> str:
    """Return a name of a user as code, in which Markdown and HTML are shown literally."""
    shown = visible(" ".join(text.split()))
    return escape(shown) if "`" in shown else f"`{shown}`"


def _template_values(
    folder: Path, results: Mapping[str, Any], record: Mapping[str, Any], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    model = read_json(folder / "config.json")
    hardest_prefix = "test" if "test_per_class" in results else "eval"
    method = "as a linear probe on" if summary.is_linear_probe(recipe, results) else "fine-tuned from"
    origin = "trained from scratch" if recipe.get("from_scratch") else f"{method} {as_code(wording.model_name(recipe))}"
    return {
        "architecture": _pooled_backbone(model) or model["architectures"][0],
        "origin": origin,
        "data_name": escape(Path(str(recipe["dataset_name"])).name),
        "data": _describe_data(record["data"]),
        "num_classes": record["data"]["classes"],
        "samples": record["data"]["samples"],
        "scores": [_score_cells(row) for row in summary.summarize(results)],
        "has_test": "test_accuracy" in results,
        "confidence": list(summary.confidence_sentences(results)),
        "audit": list(summary.audit_sentences(record, results)),
        "hardest_split": summary.SPLITS[hardest_prefix],
        "hardest": _hardest_classes(results[f"{hardest_prefix}_per_class"]),
        "slices": [
            escape(sentence)
            for sentence in summary.slice_sentences(summary.slices_of(results, summary.SPLITS[hardest_prefix]))
        ][:MAX_SLICES],
        "plots": [name for name in PLOTS if (folder / "figures" / f"{name}.png").exists()],
        "training": _training(folder / TRAINER_STATE),
        "probe": _probe(results),
        "speed": wording.describe_speed(record.get("speed")),
        "refit": wording.describe_refit(results),
        "auto": " ".join(filter(None, [escape(wording.describe_trials(record)), wording.describe_auto(results)])),
        "best_metric": recipe.get("metric_for_best_model", "accuracy"),
        "history": [escape(sentence) for sentence in wording.history_sentences(record)],
        "machine": wording.describe_machine(record["machine"]),
        "precision": record["machine"]["precision"],
        "minutes": f"{record['timings']['train'] / 60:.1f}",
        "train_image_size": results.get("train_image_size"),
        "image_size": _image_size(read_json(folder / "preprocessor_config.json")),
        "augmentation": wording.describe_augmentation(recipe),
        "recipe": public_recipe(folder).strip(),
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
    }


def _pooled_backbone(model: Mapping[str, Any]) -> str | None:
    """Return the model type of the backbone of a network with a pooled head, and None for any other network."""
    return str(model["vision_config"]["model_type"]) if model.get("model_type") == POOLED_MODEL_TYPE else None


def _describe_data(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how the data were read, and what was skipped or renamed, or None for a run that did not record it."""
    if "source" not in data:
        return None
    sizes = ", ".join(f"{count} {split}" for split, count in data["samples"].items())
    return {
        "summary": f"{escape(str(data['name']))} was read as {data['source']}: {sizes} images.",
        "notes": [escape(note) for note in data["notes"]],
    }


def _training(file: Path) -> dict[str, Any] | None:
    """Return epochs, steps and the validation curve, or None if the Trainer did not run (`--strategy head`)."""
    if not file.exists():
        return None
    state = read_json(file)
    return {
        "epochs": f"{state['epoch']:g}",
        "steps": state["global_step"],
        "best_step": state["best_global_step"],
        "curve": _validation_curve(state["log_history"]),
    }


def _probe(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return accuracy, regularization and label curve of the linear probe, or None if there was no probe."""
    if "probe_eval_accuracy" not in results:
        return None
    curve = [row | {"accuracy": summary.format_percent(row["accuracy"])} for row in results["learning_curve"]]
    return {
        "accuracy": summary.format_percent(results["probe_eval_accuracy"]),
        "C": f"{results['probe_C']:g}",
        "curve": curve,
    }


def _score_cells(row: summary.SplitSummary) -> list[str]:
    """Return the cells of one row in the table of metrics. A metric that was not computed is shown as `-`."""
    return [row.split, str(row.images), *(row.accuracies.get(label, "-") for label in summary.ACCURACIES.values())]


def _hardest_classes(per_class: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the classes with the lowest accuracies, lowest first."""
    ranked = sorted(per_class.items(), key=lambda item: item[1]["accuracy"])[:MAX_HARDEST]
    return [
        {"name": escape(name), "samples": row["samples"], "accuracy": summary.format_accuracy(row, "accuracy")}
        for name, row in ranked
    ]


def _image_size(processor: Mapping[str, Any]) -> int:
    """Return the input resolution in pixels from the configuration of the image processor."""
    size = processor["crop_size"] if processor.get("do_center_crop") else processor["size"]
    pixels: int = size.get("height") or size["shortest_edge"]
    return pixels


def _validation_curve(history: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return at most `MAX_CURVE_ROWS` evaluations, evenly spaced. The last evaluation is always included."""
    rows = [row for row in history if "eval_accuracy" in row]
    step = -(-len(rows) // MAX_CURVE_ROWS)
    return [
        {
            "epoch": f"{row['epoch']:g}",
            "loss": f"{row['eval_loss']:.3f}",
            "accuracy": summary.format_percent(row["eval_accuracy"]),
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
