"""Ways in which a file is damaged."""

from collections.abc import Callable
from pathlib import Path


def keep(fraction: float) -> Callable[[Path], object]:
    """Return a function that truncates a file."""
    return lambda file: file.write_bytes(file.read_bytes()[: int(file.stat().st_size * fraction)])


def flip(fraction: float) -> Callable[[Path], object]:
    """Return a function that flips one bit at a fraction of the length."""

    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[int(len(content) * fraction)] ^= 0x40
        file.write_bytes(content)

    return damage


def zero(begin: float, end: float) -> Callable[[Path], object]:
    """Return a function that overwrites a part of a file with zeros, as a power failure does; with ones if it is 0."""

    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        first, last = int(len(content) * begin), max(int(len(content) * end), 1)
        content[first:last] = (b"\0" if any(content[first:last]) else b"\xff") * (last - first)
        file.write_bytes(content)

    return damage


DAMAGE: dict[str, Callable[[Path], object]] = {
    "absent": Path.unlink,
    "empty": keep(0),
    "half": keep(0.5),
    "last byte gone": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "zeroed": zero(0, 1),
    "tail zeroed": zero(0.75, 1),
    "middle zeroed": zero(0.45, 0.55),
    "flipped early": flip(0.02),
    "flipped in the middle": flip(0.5),
    "flipped late": flip(0.9),
}
