"""Model files of strangers: numbers in them are checked before a network or an image of that size is made."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_PIXELS = 1, 4096
_WIDTH = 1, 65_536
_BLOCKS = 1, 1000
_SIZES = {
    **dict.fromkeys(("image_size", "patch_size", "window_size", "pretrained_window_size"), _PIXELS),
    **dict.fromkeys(("hidden_size", "hidden_sizes", "embed_dim", "embedding_size", "neck_hidden_sizes"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "pooler_output_size", "encoder_stride"), _WIDTH),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_heads", "depths", "num_stages"), _BLOCKS),
    "num_channels": (1, 64),
    "num_labels": (1, 1_000_000),
    "num_features": _WIDTH,
    "num_prefix_tokens": (0, 1000),
}
"""Key of config.json -> smallest and largest value. Lists have a value for each stage of the network."""
_LARGEST_NUMBER = 10**9  # of any other key


def config_problems(folder: Path, name: str) -> Iterator[str]:
    """Yield what is wrong with config.json and preprocessor_config.json of a model, naming file and key.

    Only values are checked that make reading the model fail, end in huge allocations, or never end. Missing files and
    keys are not problems here.

    Args:
        folder: Folder of the model.
        name: Name of the model as the user gave it.
    """
    for file, find in (("config.json", _network_problems), ("preprocessor_config.json", _processor_problems)):
        path = folder / file
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            yield f"{file} of {name} is not valid JSON ({error}): download or copy it again"
            continue
        if not isinstance(content, dict):
            yield f"{file} of {name} is not a JSON object: download or copy it again"
            continue
        for key, problem in find(content):
            yield f"{file} of {name}: {key} {problem}"


def _network_problems(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("_config"):
            yield from _network_problems(value)
        elif key in _SIZES and value is not None:
            low, high = _SIZES[key]
            if not all(_is_number(number, low, high, whole=True) for number in _flat(value)):
                yield key, f"is {_shown(value)}: use integers from {low} to {high}"
        elif isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER:
            yield key, f"is {_shown(value)}: use a smaller number"
    labels = config.get("id2label")
    if labels is not None and not (isinstance(labels, dict) and labels and all(map(str.isdecimal, labels))):
        yield "id2label", f"is {_shown(labels)}: map class numbers to names"
    if not isinstance(config.get("model_type", ""), str):
        yield "model_type", f"is {_shown(config['model_type'])}: use the name of an architecture"


def _is_size(value: Any) -> bool:
    sides = list(value.values()) if isinstance(value, dict) else list(_flat(value))
    return bool(sides) and all(side is None or _is_number(side, *_PIXELS, whole=True) for side in sides)


def _is_statistic(value: Any) -> bool:
    numbers = list(_flat(value))
    return len(numbers) in (1, 3) and all(_is_number(number, -1000, 1000) for number in numbers)


_PROCESSOR: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("size", "crop_size"), (_is_size, f"use height and width from {_PIXELS[0]} to {_PIXELS[1]}")),
    "resample": (lambda value: _is_number(value, 0, 5, whole=True), "use 0 to 5, for example 2 (bilinear)"),
    "rescale_factor": (
        lambda value: _is_number(value, -1000, 1000) and value != 0,
        "use a number such as 0.00392156862745098",
    ),
    "image_mean": (_is_statistic, "use three numbers"),
    "image_std": (lambda value: _is_statistic(value) and 0 not in _flat(value), "use three numbers other than 0"),
    "crop_pct": (lambda value: _is_number(value, 0.01, 10), "use a number such as 0.9"),
    **dict.fromkeys(
        ("do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb"),
        (lambda value: isinstance(value, bool), "use true or false"),
    ),
}
"""Key of preprocessor_config.json -> whether a value is valid, and what to use."""


def _processor_problems(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, (is_valid, remedy) in _PROCESSOR.items():
        value = config.get(key)
        if value is not None and not is_valid(value):
            yield key, f"is {_shown(value)}: {remedy}"


def _flat(value: Any) -> Iterator[Any]:
    """Yield the items of a list, of lists in it too, or a value that is not a list."""
    if isinstance(value, list):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _is_number(value: Any, low: float, high: float, *, whole: bool = False) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return False
    return low <= value <= high and (not whole or value == int(value))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
