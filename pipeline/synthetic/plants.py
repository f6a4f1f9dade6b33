"""A species ready for drawing: its genes and the sheets painted from them, once per process."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from pipeline.synthetic.genome import Colours, Form, Habit, Pattern, genome
from pipeline.synthetic.hearts import heart_sheet
from pipeline.synthetic.petals import petal_sheet
from pipeline.synthetic.raster import Array
from pipeline.synthetic.seeds import Stream, generator

_FIRST_STRANGER, _STRANGERS = 1 << 30, 40  # seeds of plants that only stand around the one shown


@dataclass(frozen=True)
class Plant:
    """A species ready for drawing; see `sheets` for what a sheet is."""

    form: Form
    habit: Habit
    petal: Array  # the sheet of the outer petals
    inner: Array  # that of the inner ones
    heart: Array
    heart_radius: float  # in petal lengths
    leaf: Array


@lru_cache(maxsize=128)
def plant(version: int, species: int) -> Plant:
    """Return the species with seed `species` of this version of the data set, ready for drawing."""
    genes = genome(version, species)
    form, colours, pattern, tone = genes.form, genes.colours, genes.pattern, genes.habit.leaf_tone
    rng = generator(version, Stream.PAINT, species)  # in the order below
    petal = petal_sheet(form, colours, pattern, rng)
    inner = petal
    if colours.inner != colours.tip:
        inner = petal_sheet(form, replace(colours, tip=colours.inner), pattern, rng)
    heart = heart_sheet(genes.heart, colours, rng)
    leaf = petal_sheet(
        Form(petals=1, outline="pointed", width=genes.habit.leaf_width, fold=-0.8),
        Colours(tip=tone, base=tone, accent=tone, inner=tone, fade=0.5),
        Pattern(kind="plain", size=0, veins=0.35, lines=7),
        rng,
    )
    return Plant(form, genes.habit, petal, inner, heart, genes.heart.radius, leaf)


def stranger(version: int, rng: np.random.Generator) -> Plant:
    """Return one of a few plants that are no species of the data set."""
    return plant(version, _FIRST_STRANGER + int(rng.integers(_STRANGERS)))
