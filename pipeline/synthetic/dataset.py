"""The embedded dataset `synthetic-flowers`: rendered images of invented flower species.

This module has the names of the species, the splits and their cache. `scene.py` renders the images. An image is a
deterministic function of (`VERSION`, species seed, image number, size, day or dusk).
"""

import io
from collections.abc import Iterator
from typing import Any

import datasets
from PIL import Image

from pipeline.errors import raise_problems
from pipeline.performance import machine
from pipeline.progress import progress_on_terminal_only
from pipeline.synthetic.genome import GENUS_SIZE
from pipeline.synthetic.scene import render

# `synthetic-flowers-pretrain`, on which the shipped base was trained. It shares no species and no genus with
# `synthetic-flowers`, and its images are taken by day. Those of `synthetic-flowers` are taken at dusk, so that
# fine-tuning has something to adapt.
PRETRAINING = {"num_species": 1530, "first_species": 999, "train": 30, "validation": 2, "test": 2}

VERSION = 1  # Increase it with any change of the pixels or names, because it is part of the cache key.

_HEADS = "Ros Vern Lil Cal Mel Sol Nym Aur Cor Dulc Flam Gal Hel Ir Jov Lun Mir Nel Or Pal Quer Sil Tal Ul"
_MIDDLES = "and ell id im od or ov um ys ent ic ar"
_TAILS = "ia ula issa aria antha ella opsis ina"
_EPITHETS = (
    "agrestis alpina amabilis arvensis borealis communis elegans fragrans gracilis hortensis humilis "
    "insignis litoralis montana mirabilis nobilis orientalis palustris pratensis pulchella rivalis "
    "silvestris vernalis vulgaris hybrida"
)
# The steps share no factor with the number of names, so each name occurs once, and neighbors get different names.
_NAME_STEP, _EPITHET_STEP, _RANK_STEP = 7919, 11, 13
_MINIMA = {"num_species": 1, "size": 8}  # The minimum of the other numbers is 0.


def species_name(species: int) -> str:
    """Return the invented botanical name of a species: the name of its genus and an epithet."""
    genus, rank = divmod(species, GENUS_SIZE)
    heads, middles, tails, epithets = (words.split() for words in (_HEADS, _MIDDLES, _TAILS, _EPITHETS))
    # After all names are used, they repeat with a longer middle part.
    repeats, place = divmod(genus, num_names := len(heads) * len(middles) * len(tails))
    place, tail = divmod(place * _NAME_STEP % num_names, len(tails))
    head, middle = divmod(place, len(middles))
    epithet = (genus * _EPITHET_STEP + rank * _RANK_STEP) % len(epithets)
    return f"{heads[head]}{middles[middle] * (repeats + 1)}{tails[tail]} {epithets[epithet]}"


def load_synthetic(
    *,
    num_species: int = 102,
    first_species: int = 0,
    train: int = 10,
    validation: int = 10,
    test: int = 20,
    size: int = 64,
    dusk: bool = True,
) -> datasets.DatasetDict:
    """Return the dataset. It is rendered on all cores in the first call, and loaded from the cache in later calls.

    Args:
        num_species: Number of species, which are the classes.
        first_species: Seed of the species with label 0.
        train: Images per species in the train split. With 0, the dataset does not have this split.
        validation: Images per species in the validation split. Their numbers follow those of train.
        test: Images per species in the test split. Their numbers follow those of validation.
        size: Width and height in pixels.
        dusk: Whether the images are taken at dusk, or the same scenes by day.

    Returns:
        Splits with `image` (PNG bytes, not decoded) and `label`, sorted by species.

    Raises:
        PipelineError: If a number is out of range.
    """
    counts = {"train": train, "validation": validation, "test": test}
    numbers = {"num_species": num_species, "first_species": first_species, "size": size, **counts}
    raise_problems(
        f"synthetic-flowers: {name} {number} is too small: use {minimum} or more"
        for name, number in numbers.items()
        if number < (minimum := _MINIMA.get(name, 0))
    )
    seeds = list(range(first_species, first_species + num_species))
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.ClassLabel(names=[species_name(s) for s in seeds])
    )
    processes = min(machine.usable_cores(), num_species)
    splits, start = datasets.DatasetDict(), 0
    for name, count in counts.items():
        if count:
            # The cache key depends on these arguments, but not on the source code, so they include the version.
            arguments = {
                "species": seeds,
                "first": first_species,
                "images": range(start, start + count),
                "size": size,
                "version": VERSION,
                "dusk": dusk,
            }
            with progress_on_terminal_only():
                splits[name] = datasets.Dataset.from_generator(
                    _rows,
                    features=features,
                    gen_kwargs=arguments,
                    num_proc=processes if processes > 1 else None,
                    split=datasets.NamedSplit(name),
                )
        start += count
    return splits


def _rows(
    *, species: list[int], first: int, images: range, size: int, version: int, dusk: bool
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split. `datasets` divides the list `species` among its processes."""
    for seed in species:
        for index in images:
            file = io.BytesIO()
            image = render(seed, index, size=size, version=version, dusk=dusk)
            Image.fromarray(image).save(file, "png", compress_level=4)
            yield {"image": {"bytes": file.getvalue(), "path": None}, "label": seed - first}
