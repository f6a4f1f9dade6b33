"""The backbones of a race: names and shipped lists -> one name for each. Torch-free."""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import yaml

from pipeline.config import names
from pipeline.errors import did_you_mean


@functools.cache
def shipped_lists() -> dict[str, dict[str, str]]:
    """Return the shipped lists: name -> Hub id -> license."""
    return dict(yaml.safe_load((names.ASSETS / "backbones.yaml").read_text(encoding="utf-8")))


def expand_lists(words: Sequence[str]) -> list[str]:
    """Return the backbones, with those of a shipped list in place of its name."""
    lists = shipped_lists()
    return [backbone for word in words for backbone in lists.get(word, [word])]


def known_license(backbone: str) -> str | None:
    """Return the license that a shipped list states for a backbone, or None."""
    return next((models[backbone] for models in shipped_lists().values() if backbone in models), None)


def display_name(backbone: str) -> str:
    """Return the name of a backbone in tables: a Hub id, or the last part of a path."""
    return backbone if names.local_model(backbone) is None else names.as_path(backbone).resolve().name


def folder_name(backbone: str) -> str:
    """Return the name of the folder of a backbone, such as `owner--name` for a Hub id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", display_name(backbone).replace("/", "--"))


def backbone_problems(words: Sequence[str], finalists: int) -> Iterator[str]:
    """Yield what is wrong with `--backbones` and `--finalists`.

    Whether a Hub model can be loaded is found when its turn comes, so that the others can be compared without it.
    """
    if not words:
        yield f"no backbones given: pass --backbones with models, or one of {', '.join(shipped_lists())}"
        return
    backbones = expand_lists(words)
    for name in backbones:
        if names.local_model(name) is None and "/" not in name:
            known = ", ".join(shipped_lists())
            similar = did_you_mean(name, shipped_lists())
            yield f"unknown list or model folder {name!r} in --backbones{similar}: use {known}, or a model"
        elif names.local_model(name) is not None or not names.is_hub_id(name):
            yield from names.model_problems(name)
    places = Counter(map(folder_name, backbones))
    for place in (place for place, count in places.items() if count > 1):
        same = [name for name in backbones if folder_name(name) == place]
        if len({names.as_path(name).resolve() for name in same}) == 1:
            yield f"--backbones names {same[0]} {len(same)} times: remove all but one"
        else:
            yield f"--backbones {' and '.join(same)} have the same name: rename one of the folders"
    if finalists > len(backbones):
        count = len(backbones)
        yield f"--finalists {finalists} is more than the number of --backbones: use at most {count}"
