"""How large a step's tensors are made: exactly as needed, or one of a few sizes. Pure arithmetic; it knows no tensor.

The allocator of MPS keeps a buffer, and its graph cache a program, for every shape that it has met: with exact shapes
the memory of a server that runs for days has no bound. There each step is padded to one of a few shapes.
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

    def count(self, number: int) -> int:
        """Of tokens, rows or slots; 0 only where exact shapes are wanted."""
        return _rounded(max(number, 1)) if self.few else number

    def positions(self, number: int, most: int) -> int:
        """Of the cache, which has `most`."""
        return min(_rounded(max(number, _FEWEST_POSITIONS)), most) if self.few else number

    def window(self, first: int, number: int, most: int) -> tuple[int, int]:
        """(first, number) of adjacent rows or slots that cover those asked for and lie among `most`."""
        number_here = min(self.count(number), most)
        return min(first, most - number_here), number_here


EXACT = Shapes()


def padded(items: Sequence[_T], size: int) -> list[_T]:
    """`items`, the last one repeated: what is computed twice may be written twice, for it is the same."""
    return [*items, *[items[-1]] * (size - len(items))]


def _rounded(number: int) -> int:
    """A power of two; above 32 a quarter of one as well, so that at most a fifth is padding."""
    power: int = 1 << (number - 1).bit_length()
    step = power // 8 if power > 32 else power
    return -(-number // step) * step
