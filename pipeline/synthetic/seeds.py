"""Random generators. Everything that is sampled has a separate generator with its own seed; none is global."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The purpose of a generator. Streams are independent of each other. Changing a number changes the pixels."""

    IMAGE = 1  # for (species, image number): everything that differs between images of a species
    DIFFERENCES = 2  # for a species: the groups of genes that it does not share with its genus
    SPECIES_GENES = 3  # for (species, group of genes)
    GENUS_GENES = 4  # for (genus, group of genes)
    PAINT = 5  # for a species: positions of spots and stamens in its textures


def generator(version: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """Return a new generator, seeded with the version of the dataset, the stream and the numbers."""
    # SeedSequence ignores trailing zeros, so the seed ends with 1.
    return np.random.default_rng((version, stream, *numbers, 1))
