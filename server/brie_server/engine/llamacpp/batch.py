"""A `llama_batch` over arrays that numpy fills. It knows llama.h's layout, and no request."""

import ctypes
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt


class Batch:
    """Room for the tokens of one decode; each token belongs to one row of the cache."""

    def __init__(self, most_tokens: int) -> None:
        self._tokens = np.zeros(most_tokens, np.int32)
        self._positions = np.zeros(most_tokens, np.int32)
        self._rows = np.zeros(most_tokens, np.int32)
        self._wanted = np.zeros(most_tokens, np.int8)
        # one row for each token, so the counts and the pointers to the rows never change
        self._ones = np.ones(most_tokens, np.int32)
        self._row_pointers = self._rows.ctypes.data + 4 * np.arange(most_tokens, dtype=np.uint64)
        self._struct = self._describe()
        self._size = 0

    def clear(self) -> None:
        """Begin the next decode."""
        self._size = 0

    def add(self, token_ids: Any, start: int, row: int, *, wanted: bool) -> int:
        """Tokens of one row from position `start`; returns the index of the last, whose logits may be `wanted`."""
        begin, end = self._size, self._size + len(token_ids)
        self._tokens[begin:end] = token_ids
        self._positions[begin:end] = np.arange(start, start + end - begin)
        self._rows[begin:end] = row
        self._wanted[begin:end] = 0
        self._wanted[end - 1] = wanted
        self._size = end
        return end - 1

    def describe(self) -> Any:
        """The struct for `llama_decode`; valid as long as this object."""
        self._struct.n_tokens = self._size
        return self._struct

    def _describe(self) -> Any:
        return llama_cpp.llama_batch(
            n_tokens=0,
            token=_pointer(self._tokens, ctypes.c_int32),
            embd=None,
            pos=_pointer(self._positions, ctypes.c_int32),
            n_seq_id=_pointer(self._ones, ctypes.c_int32),
            seq_id=_pointer(self._row_pointers, ctypes.POINTER(ctypes.c_int32)),
            logits=_pointer(self._wanted, ctypes.c_int8),
        )


def _pointer(array: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(array.ctypes.data, ctypes.POINTER(kind))
