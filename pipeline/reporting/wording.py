"""Settings and results of a run as sentences, for the card and the page."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.reporting import summary
from pipeline.runs.files import remove_absolute_path

# Value of --augmentation -> class name in torchvision.transforms.v2. `images.augmentation` imports the classes, which
# is slow.
_POLICY_NAMES = {"trivial": "TrivialAugmentWide", "rand": "RandAugment", "auto": "AutoAugment"}


def describe_trials(record: Mapping[str, Any]) -> str:
    """Return a sentence about the trials of `--auto`, or an empty string if there was none."""
    trials = record.get("trials") or []
    chosen = next((trial["candidate"] for trial in trials if trial["chosen"]), None)
    if chosen is None:
        return ""
    names = {trial["candidate"] for trial in trials}
    return (
        f"Validation chose the settings among {len(names)} candidates, in {len(trials)} trials: "
        f"{chosen}. Validation accuracy is therefore optimistic."
    )


def describe_auto(results: Mapping[str, Any]) -> str:
    """Return a sentence about the linear probe of `--auto`, or an empty string if there was none."""
    if "auto_probe_eval_accuracy" not in results:
        return ""
    trained, probe = results["auto_trained_eval_accuracy"], results["auto_probe_eval_accuracy"]
    return (
        f"A linear probe on frozen features at {results['auto_probe_image_size']} px reached "
        f"{summary.format_percent(probe)} on validation, compared with {summary.format_percent(trained)} for the "
        f"trained model. The {'probe' if probe > trained else 'trained model'} was kept."
    )


def describe_refit(results: Mapping[str, Any]) -> str:
    """Return a sentence about refitting the head, or an empty string if it was not refitted."""
    if "refit_eval_accuracy" not in results:
        return ""
    before, after = results["trained_head_eval_accuracy"], results["refit_eval_accuracy"]
    return (
        "The head was refitted by logistic regression on the trained features: validation accuracy "
        f"{summary.format_percent(after)}, compared with {summary.format_percent(before)} for the trained head. "
        f"The {'refitted' if after > before else 'trained'} head was kept."
    )


def describe_speed(speed: Mapping[str, Any] | None) -> str:
    """Return a sentence with throughput, MFU and data wait, or an empty string if they were not measured."""
    if not speed:
        return ""
    mfu = f", {100 * speed['mfu']:.0f}% of the measured matmul rate (MFU)" if speed.get("mfu") else ""
    return f"Throughput: {speed['images_per_second']:.4g} images/s{mfu}, data wait {100 * speed['data_wait']:.1f}%."


def describe_augmentation(recipe: Mapping[str, Any]) -> str:
    """Return the augmentation of the training images as a list in one line, or `none`."""
    steps = []
    if (policy := recipe["augmentation"]) != "none":
        steps.append(f"random resized crop (at least {100 * recipe['crop_scale']:g}% of the area)")
        steps.append(f"horizontal flip (probability {recipe['hflip']:g})" if recipe["hflip"] else "no horizontal flip")
        if policy in _POLICY_NAMES:
            steps.append(_POLICY_NAMES[policy])
        if recipe.get("random_erasing"):
            steps.append(f"random erasing (probability {recipe['random_erasing']:g})")
    steps += [f"{name} (alpha {recipe[name]:g})" for name in ("mixup", "cutmix") if recipe.get(name)]
    if recipe.get("patch_drop_rate"):
        steps.append(f"patch dropout ({100 * recipe['patch_drop_rate']:g}%)")
    return ", ".join(steps) or "none"


def describe_machine(machine: Mapping[str, Any]) -> str:
    """Return the device, and the number of processes if there are several."""
    processes = f"{machine['processes']} x " if machine["processes"] > 1 else ""
    return f"{processes}{machine['device']}"


def model_name(recipe: Mapping[str, Any]) -> str:
    """Return the name of the checkpoint without a folder of this machine."""
    return remove_absolute_path(str(recipe["model_name_or_path"]))


def history_sentences(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a repetition of the run would not repeat, or would do as well: changes on the way, and rewinds."""
    for entry in record.get("overridden", []):
        changes = [f"{each['name']} from {each['before']} to {each['now']}" for each in entry["changes"]]
        listed = ", ".join(changes)
        yield f"The run was interrupted and continued with changes: {listed}. A repetition will differ."
    for entry in record.get("rewinds", []):
        yield (
            f"Training diverged, and continued from step {entry['resumed_from']:,} with the learning rate "
            f"{entry['learning_rate']:g}."
        )
