"""The embedded data set `synthetic-flowers`: invented flower species, drawn, not downloaded.

It owns the names of the species, the splits and their cache. How a picture is drawn is in `flowers`; it is a
function of (`VERSION`, species seed, image number, size).
"""

import io
from collections.abc import Iterator
from typing import Any

import datasets
from PIL import Image

from pipeline.distributed import progress_on_terminal_only
from pipeline.errors import refuse
from pipeline.performance import machine
from pipeline.synthetic.genome import GENUS_SIZE
from pipeline.synthetic.scene import draw

# `synthetic-flowers-pretrain`, which the shipped base saw: no species, and no genus, of `synthetic-flowers` is in it.
PRETRAINING = {"num_species": 1530, "first_species": 999, "train": 30, "validation": 2, "test": 2}

VERSION = 1  # raise it with any change to the pixels or the names: caches are keyed on it

_HEADS = "Ros Vern Lil Cal Mel Sol Nym Aur Cor Dulc Flam Gal Hel Ir Jov Lun Mir Nel Or Pal Quer Sil Tal Ul"
_MIDDLES = "and ell id im od or ov um ys ent ic ar"
_TAILS = "ia ula issa aria antha ella opsis ina"
_EPITHETS = (
    "agrestis alpina amabilis arvensis borealis communis elegans fragrans gracilis hortensis humilis "
    "insignis litoralis montana mirabilis nobilis orientalis palustris pratensis pulchella rivalis "
    "silvestris vernalis vulgaris hybrida"
)
# Steps that share no factor with the number of names: each name is met once, neighbours are far apart.
_NAME_STEP, _EPITHET_STEP, _RANK_STEP = 7919, 11, 13
_LEAST = {"num_species": 1, "size": 8}  # for the other numbers it is 0


def species_name(species: int) -> str:
    """Return the invented botanical name of a species: its genus, shared by three, and an epithet."""
    genus, rank = divmod(species, GENUS_SIZE)
    heads, middles, tails, epithets = (words.split() for words in (_HEADS, _MIDDLES, _TAILS, _EPITHETS))
    # When the names are used up, they come again with a longer middle.
    again, place = divmod(genus, num_names := len(heads) * len(middles) * len(tails))
    place, tail = divmod(place * _NAME_STEP % num_names, len(tails))
    head, middle = divmod(place, len(middles))
    epithet = (genus * _EPITHET_STEP + rank * _RANK_STEP) % len(epithets)
    return f"{heads[head]}{middles[middle] * (again + 1)}{tails[tail]} {epithets[epithet]}"


def load_synthetic(
    *,
    num_species: int = 102,
    first_species: int = 0,
    train: int = 10,
    validation: int = 10,
    test: int = 20,
    size: int = 64,
) -> datasets.DatasetDict:
    """Return the data set, drawn on all cores the first time and from the cache of `datasets` afterwards.

    Args:
        num_species: Number of classes.
        first_species: Seed of the first one; label 0 is this species.
        train: Images of a species in this split, numbered from 0; 0 leaves the split out.
        validation: The same, numbered on from `train`.
        test: The same, numbered on from `validation`.
        size: Pixels, width and height.

    Returns:
        Splits with `image` (PNG bytes, not decoded) and `label`, species after species.

    Raises:
        PipelineError: If a number is out of range.
    """
    counts = {"train": train, "validation": validation, "test": test}
    numbers = {"num_species": num_species, "first_species": first_species, "size": size, **counts}
    refuse(
        f"synthetic-flowers: {name} must be {least} or more, not {number}."
        for name, number in numbers.items()
        if number < (least := _LEAST.get(name, 0))
    )
    seeds = list(range(first_species, first_species + num_species))
    features = datasets.Features(
        image=datasets.Image(decode=False), label=datasets.ClassLabel(names=[species_name(s) for s in seeds])
    )
    processes = min(machine.usable_cores(), num_species)
    splits, start = datasets.DatasetDict(), 0
    for name, count in counts.items():
        if count:
            # The arguments are the cache key, which sees no source code: hence the version among them.
            arguments = {
                "species": seeds,
                "first": first_species,
                "images": range(start, start + count),
                "size": size,
                "version": VERSION,
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


def _rows(*, species: list[int], first: int, images: range, size: int, version: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split; `datasets` deals out `species`, the one list, to its processes."""
    for seed in species:
        for index in images:
            file = io.BytesIO()
            Image.fromarray(draw(seed, index, size=size, version=version)).save(file, "png", compress_level=4)
            yield {"image": {"bytes": file.getvalue(), "path": None}, "label": seed - first}
