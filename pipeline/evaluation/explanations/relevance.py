"""What a method of explanation returns for a batch of images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

ClassMaps = Callable[[Tensor], Tensor]
"""One class of each image (batch) -> relevance maps (batch, rows, columns), not negative."""


@dataclass(frozen=True)
class Explained:
    """A batch of images after one forward pass.

    Attributes:
        logits: (batch, classes).
        attention: Attention from the class token to the patches (layers, batch, heads, rows, columns), or None if the
            network has no class token or no attention maps.
        relevance: Returns the relevance maps for a class of each image.
    """

    logits: Tensor
    attention: Tensor | None
    relevance: ClassMaps


class Method(Protocol):
    """A method that makes relevance maps for one network."""

    @property
    def name(self) -> str:
        """Name of the method."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of its maps."""

    def explain(self, pixel_values: Tensor) -> Explained:
        """Run the network on a batch (batch, 3, height, width)."""
