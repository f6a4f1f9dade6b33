"""Where chance comes from: one generator for each thing that is drawn by lot, none shared, none global."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What a generator is for; streams are independent of each other. The numbers are part of the pixels."""

    PICTURE = 1  # of (species, image number): all that differs between pictures of a species
    DIFFERENCES = 2  # of a species: which genes it does not share with its genus
    SPECIES_GENES = 3  # of (species, group of genes)
    GENUS_GENES = 4  # of (genus, group of genes)
    PAINT = 5  # of a species: where the spots and stamens on its sheets are


def generator(version: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """Return the generator of this stream for these numbers, in its first state."""
    # SeedSequence takes trailing zeros for nothing: hence the 1 at the end.
    return np.random.default_rng((version, stream, *numbers, 1))
