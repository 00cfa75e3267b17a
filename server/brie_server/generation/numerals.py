"""Which tokens write numbers, and when a number has digits enough. It knows bits and bytes, no grammar."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint8]
"""A bit for each token, the lowest of the first byte for id 0."""
MOST_OF_WHOLE = 20
"""Digits of a number without a point: one of 64 bits has no more."""
MOST_WITH_POINT = 15
"""Digits in all of one with a point: so many tell numbers of 64 bits apart, and a schema's bounds are such numbers."""


@dataclass(frozen=True, slots=True)
class Numerals:
    """The tokens of one vocabulary that are nothing but digits and points."""

    pieces: Mapping[int, bytes]
    digits: Bits
    zeros: Bits

    def without(self, allowed: Bits, number: bytes) -> Bits:
        """What may follow `number`: once it has digits enough, no more of them where anything else may stand.

        Where only digits may, one that is no zero: what is above 124 must not be 124.0000 for ever.
        """
        most = MOST_WITH_POINT if b"." in number else MOST_OF_WHOLE
        if len(number) - number.count(b".") < most:
            return allowed
        for unwanted in (self.digits, self.zeros):
            if (others := allowed & ~unwanted).any():
                return others
        return allowed


def numerals_of(tokens: Sequence[bytes]) -> Numerals:
    """By the bytes of each token."""
    pieces = {token: piece for token, piece in enumerate(tokens) if piece and not piece.strip(b"0123456789.")}
    digits = [token for token, piece in pieces.items() if piece.isdigit()]
    zeros = [token for token in digits if not pieces[token].strip(b"0")]
    return Numerals(pieces, bits_of(digits, len(tokens)), bits_of(zeros, len(tokens)))


def bits_of(tokens: Iterable[int], size: int) -> Bits:
    """Those tokens of a vocabulary of `size`, in as many words of 32 bits as llguidance has for it."""
    flags = np.zeros(-(-size // 32) * 32, np.bool_)
    flags[list(tokens)] = True
    return np.packbits(flags, bitorder="little")
