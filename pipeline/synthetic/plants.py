"""Plants: the genes of a species and its textures, which are painted once per process."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from pipeline.synthetic.centers import center_texture
from pipeline.synthetic.genome import Colors, Form, Habit, Pattern, genome
from pipeline.synthetic.petals import petal_texture
from pipeline.synthetic.raster import Array
from pipeline.synthetic.seeds import Stream, generator

_FIRST_BACKGROUND_SPECIES, _BACKGROUND_SPECIES = 1 << 30, 40  # Seeds of the species for background plants.


@dataclass(frozen=True)
class Plant:
    """A species that can be rendered. `textures.py` describes the textures."""

    form: Form
    habit: Habit
    petal: Array  # texture of the outer petals
    inner: Array  # texture of the inner petals
    center: Array  # texture of the blossom center
    center_radius: float  # in petal lengths
    leaf: Array  # texture of the leaves


@lru_cache(maxsize=128)
def plant(version: int, species: int) -> Plant:
    """Return the plant of the species with this seed in this version of the dataset."""
    genes = genome(version, species)
    form, colors, pattern, tone = genes.form, genes.colors, genes.pattern, genes.habit.leaf_tone
    rng = generator(version, Stream.PAINT, species)  # The order of the calls below changes the pixels.
    petal = petal_texture(form, colors, pattern, rng)
    inner = petal
    if colors.inner != colors.tip:
        inner = petal_texture(form, replace(colors, tip=colors.inner), pattern, rng)
    center = center_texture(genes.center, colors, rng)
    leaf = petal_texture(
        Form(petals=1, outline="pointed", width=genes.habit.leaf_width, fold=-0.8),
        Colors(tip=tone, base=tone, accent=tone, inner=tone, fade=0.5),
        Pattern(kind="plain", size=0, veins=0.35, lines=7),
        rng,
    )
    return Plant(form, genes.habit, petal, inner, center, genes.center.radius, leaf)


def background_plant(version: int, rng: np.random.Generator) -> Plant:
    """Return one of a few plants whose species are not in the dataset, sampled with `rng`."""
    return plant(version, _FIRST_BACKGROUND_SPECIES + int(rng.integers(_BACKGROUND_SPECIES)))
