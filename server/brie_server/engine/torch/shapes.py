"""How large a step's tensors are made: exactly as needed, or one of a few sizes. Pure arithmetic; it knows no tensor.

The allocator of MPS keeps a buffer, and its graph cache a program, for every shape that it has met: with exact shapes
the memory of a server that runs for days has no bound. There each step is padded to one of a few shapes. On CUDA steps
that are recorded (`replays`) are, and to fewer still.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

_T = TypeVar("_T")
_FEWEST_POSITIONS = 64


@dataclass(frozen=True, slots=True)
class Shapes:
    """Turns the number that is needed into the number that is computed."""

    few: bool = False
    doubling: bool = False
    """Of the few, powers of two alone; windows then begin at multiples of their size."""

    def count(self, number: int) -> int:
        """Of tokens, rows or slots; 0 only where exact shapes are wanted."""
        return self._rounded(max(number, 1)) if self.few else number

    def positions(self, number: int, most: int) -> int:
        """Of the cache, which has `most`."""
        return min(self._rounded(max(number, _FEWEST_POSITIONS)), most) if self.few else number

    def window(self, first: int, number: int, most: int) -> tuple[int, int]:
        """(first, number) of adjacent rows or slots that cover those asked for and lie among `most`."""
        size = self.count(number)
        while self.doubling and first % size + number > size:
            size *= 2
        start, size = first - first % size if self.doubling else first, min(size, most)
        return min(start, most - size), size

    def _rounded(self, number: int) -> int:
        """A power of two; above 32 a quarter of one as well, if not doubling, so that at most a fifth is padding."""
        power: int = 1 << (number - 1).bit_length()
        step = power // 8 if power > 32 and not self.doubling else power
        return -(-number // step) * step


EXACT = Shapes()
DOUBLING = Shapes(few=True, doubling=True)


def padded(items: Sequence[_T], size: int) -> list[_T]:
    """`items`, the last one repeated: what is computed twice may be written twice, for it is the same."""
    return [*items, *[items[-1]] * (size - len(items))]
