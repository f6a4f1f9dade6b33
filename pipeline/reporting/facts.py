"""What the report says in words and small tables: result, origin, speed, choices and how to repeat the run."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.evaluation.confidence import wilson_interval
from pipeline.evaluation.scoring import PREFIXES
from pipeline.reporting import summary, wording
from pipeline.reporting.charts.chart import interval_bar
from pipeline.reporting.run_files import RunFiles
from pipeline.runs.publish import public_recipe


@dataclass(frozen=True)
class Comparison:
    """One row of the comparison with what is cheaper.

    Attributes:
        name: The method.
        split: The split on which it was measured.
        accuracy: Its accuracy.
        interval: Wilson's 95% interval.
        own: Whether it is the model of the run.
    """

    name: str
    split: str
    accuracy: float
    interval: tuple[float, float]
    own: bool = False

    @property
    def texts(self) -> tuple[str, str]:
        """The accuracy and its interval, such as `91.27%` and `[89.4, 92.9]`."""
        low, high = self.interval
        return summary.format_percent(self.accuracy), f"[{100 * low:.1f}, {100 * high:.1f}]"

    @property
    def bar(self) -> Markup:
        """The accuracy and its interval as a bar."""
        return interval_bar(self.accuracy, *self.interval)


def comparisons(files: RunFiles) -> list[Comparison]:
    """Return the model of the run below what is cheaper: majority class, nearest neighbors and linear probe."""
    results, rows = files.results, list[Comparison]()

    def add(name: str, split: str, accuracy: float, images: int, *, own: bool = False) -> None:
        rows.append(Comparison(name, split, accuracy, wilson_interval(round(accuracy * images), images), own))

    shown = files.headline
    counts = np.bincount(shown.labels)
    add(
        f"always “{files.class_names[np.argmax(counts)]}”",
        shown.split,
        float(np.max(counts)) / len(shown.labels),
        len(shown.ids),
    )
    images = results.get("eval_samples")
    if images and (neighbors := max(_neighbors(results), default=None)):
        accuracy, name = neighbors
        add(name, "validation", accuracy, images)
    if images and (probe := _probe_accuracy(files)) is not None:
        size = results.get("auto_probe_image_size")
        add(f"linear probe on frozen features{f' at {size} px' if size else ''}", "validation", probe, images)
    for each in files.predictions:
        add("this model", each.split, each.accuracy, len(each.ids), own=True)
    return rows


def _neighbors(results: Mapping[str, Any]) -> Iterator[tuple[float, str]]:
    """Yield accuracy and description of nearest neighbors: at the resolution of the model, and the best of --auto."""
    for prefix in ("knn", "auto_knn"):
        if f"{prefix}_eval_accuracy" in results:
            size = results.get(f"{prefix}_image_size")
            name = f"nearest neighbors (k = {results.get(f'{prefix}_k', '?')}) on frozen features"
            yield results[f"{prefix}_eval_accuracy"], f"{name}{f' at {size} px' if size else ''}"


def _probe_accuracy(files: RunFiles) -> float | None:
    """Return the accuracy of the best linear probe next to the model, on validation; None if none was fitted."""
    if is_probe(files):
        return None
    accuracy = files.results.get("auto_probe_eval_accuracy", files.results.get("probe_eval_accuracy"))
    return None if accuracy is None else float(accuracy)


def is_probe(files: RunFiles) -> bool:
    """Return whether the saved model is a linear probe."""
    return summary.is_linear_probe(files.recipe, files.results)


def headline(files: RunFiles) -> dict[str, object]:
    """Return the accuracy of the run, its interval, its split, and what the number means."""
    shown = files.headline
    prefix = PREFIXES.get(shown.split, shown.split)
    low, high = wilson_interval(round(shown.accuracy * len(shown.ids)), len(shown.ids))
    chosen = "The regularization of the linear probe" if is_probe(files) else "The best checkpoint"
    caveat = (
        f"{chosen} was chosen on validation; the test split was scored once, with the saved model."
        if shown.split == "test"
        else f"{chosen} was chosen on the same validation images, and the data lack a test split, so expect a lower "
        "accuracy on new images."
    )
    others = {
        label: summary.format_accuracy(files.results, f"{prefix}_{key}")
        for key, label in summary.ACCURACIES.items()
        if key != "accuracy" and f"{prefix}_{key}" in files.results
    }
    return {
        "accuracy": f"{100 * shown.accuracy:.1f}%",
        "interval": f"{100 * low:.1f}% to {100 * high:.1f}%",
        "split": shown.split,
        "images": f"{len(shown.ids):,}",
        "caveat": caveat,
        "verdict": _verdict(files),
        "others": others,
    }


def _verdict(files: RunFiles) -> str:
    """Return how the model compares with the linear probe on validation, or an empty string without a probe."""
    probe = _probe_accuracy(files)
    if probe is None or "eval_accuracy" not in files.results:
        return ""
    gain = 100 * (files.results["eval_accuracy"] - probe)
    points = f"{abs(gain):.1f} points {'more' if gain > 0 else 'less'} accurate than" if gain else "as accurate as"
    return f"On validation, this model is {points} a linear probe on frozen features."


def origin(files: RunFiles) -> str:
    """Return one sentence: what was trained, from what, on what."""
    data, recipe = files.record["data"], files.recipe
    base = wording.model_name(recipe)
    if recipe.get("from_scratch"):
        start = f"The architecture of {base}, trained from random weights"
    elif is_probe(files):
        start = f"A linear probe on the frozen features of {base}, fitted"
    else:
        start = f"{base}, fine-tuned"
    images = data["samples"].get("train")
    return f"{start} on {images:,} training images of {data['classes']} classes from {data_name(files)}."


def data_name(files: RunFiles) -> str:
    """Return the name of the dataset without a folder of this machine."""
    return Path(str(files.record["data"]["name"])).name


def training_facts(files: RunFiles) -> Iterator[tuple[str, str]]:
    """Yield how the model was trained: name and value."""
    recipe, state, record = files.recipe, files.state, files.record
    yield "strategy", str(recipe.get("strategy", "full"))
    if state is not None:
        yield "length", f"{state['epoch']:g} epochs, {state['global_step']:,} steps"
        if state.get("best_global_step"):
            yield (
                "best checkpoint",
                f"step {state['best_global_step']:,} of {state['global_step']:,}, by validation "
                + (str(recipe.get("metric_for_best_model", "accuracy"))),
            )
    for key, label in (("learning_rate", "peak learning rate"), ("layer_decay", "layer decay")):
        if state is not None and key in recipe:
            yield label, f"{recipe[key]:g}"
    if state is not None:
        yield "augmentation", wording.describe_augmentation(recipe)
    elif "probe_C" in files.results:
        yield "regularization", f"C = {files.results['probe_C']:g}, chosen on validation"
    if sentence := wording.describe_refit(files.results):
        yield "head", sentence
    if sentence := wording.describe_auto(files.results):
        yield "linear probe of --auto", sentence
    yield "seed", str(recipe.get("seed", ""))
    yield "machine", f"{wording.describe_machine(record['machine'])}, {record['machine'].get('precision', '')}"


def data_facts(files: RunFiles) -> Iterator[tuple[str, str]]:
    """Yield what the data are: name and value."""
    data = files.record["data"]
    yield "dataset", data_name(files)
    if data.get("revision"):
        yield "revision", str(data["revision"])
    if "source" in data:
        yield "read as", str(data["source"])
    yield "images", ", ".join(f"{count:,} {split}" for split, count in data["samples"].items())
    yield "classes", str(data["classes"])
    yield "fingerprint", str(data["fingerprint"])


def data_notes(files: RunFiles) -> list[str]:
    """Return what was skipped, ignored, renamed or merged while the data were read."""
    data = files.record["data"]
    skipped = [f"skipped {each['split']} image {each['image']}: {each['reason']}" for each in data.get("skipped", [])]
    return [*data.get("notes", []), *skipped]


def speed_facts(files: RunFiles) -> Iterator[tuple[str, str]]:
    """Yield throughput, MFU and data wait of the training: name and value."""
    speed = files.record.get("speed") or {}
    if "images_per_second" in speed:
        yield "training throughput", f"{speed['images_per_second']:,.4g} images/s"
    if speed.get("mfu"):
        yield "MFU", f"{100 * speed['mfu']:.0f}% of the measured matmul rate"
    if "data_wait" in speed:
        yield "data wait", f"{100 * speed['data_wait']:.1f}% of the time of the steps"


_PARTS_OF_TRAIN = {
    "frozen features": "features",
    "linear probe and learning curve": "probe",
    "decoding and caching images": "images",
    "compiling the training step": "compile",
    "training steps": "steps",
    "evaluations during training": "evaluations",
    "checkpoints": "checkpoints",
}


def phases(files: RunFiles) -> list[tuple[str, float, float]]:
    """Return where the time went: phase, seconds, and fraction of all seconds. `train` contains several others.

    Writing the report is not among them: its seconds are unknown while it is written.
    """
    timings = files.record["timings"]
    parts = {title: timings.get(phase, 0.0) for title, phase in _PARTS_OF_TRAIN.items()}
    rest = timings.get("train", 0.0) - sum(parts.values()) - timings.get("out_of_fold", 0.0)
    seconds = {
        "start: imports and checks": timings.get("start", 0.0),
        "reading the dataset": timings.get("data", 0.0),
        "trials of --auto": timings.get("auto", 0.0),
        "loading the model": timings.get("model", 0.0),
        **parts,
        "building and saving the model" if is_probe(files) else "training and saving the model": max(rest, 0.0),
        "scoring the saved model": timings.get("score", 0.0),
        "audit of labels and duplicates": timings.get("out_of_fold", 0.0) + timings.get("audit", 0.0),
        "calibration, prediction sets and unknown images": timings.get("uncertainty", 0.0),
        "relevance maps of the report": timings.get("explain", 0.0),
    }
    total = sum(seconds.values()) or 1.0
    return [(phase, each, each / total) for phase, each in seconds.items() if each]


def choices(files: RunFiles) -> list[tuple[str, str]]:
    """Return what `--auto` chose: flag and value. Empty without `--auto`."""
    words = (word.partition("=") for word in files.record.get("auto") or [])
    return [(flag, value) for flag, _, value in words]


def trials(files: RunFiles) -> list[dict[str, Any]]:
    """Return the trials of `--auto`: candidate, flags, epochs, accuracy, seconds, chosen."""
    return [
        trial | {"flags": " ".join(f"--{flag} {value}" for flag, value in trial["flags"].items())}
        for trial in files.record.get("trials") or []
    ]


def reproduction(files: RunFiles) -> dict[str, object]:
    """Return the command, the versions, the commit and the settings of the run."""
    record = files.record
    return {
        "command": shlex.join(record["command"]),
        "started": record.get("started", ""),
        "commit": record.get("commit") or "",
        "versions": list(record["versions"].items()),
        "recipe": public_recipe(files.folder).strip().splitlines(),
    }
