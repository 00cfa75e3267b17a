"""The keys and values of all running sequences, as one rectangle in each layer. It knows rows, not whose they are."""

import torch
from torch import Tensor

from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.scheduler import Move, Rectangle


class Cache:
    """Per layer k_RHCD and v_RHCD, [rows, kv_heads, capacity, head_dim]: attention reads them as plain views.

    A row is wiped before it changes hands. Masking alone would not do: a weight of zero times a NaN that an earlier
    sequence left is NaN.
    """

    def __init__(self, architecture: Architecture, device: torch.device, dtype: torch.dtype) -> None:
        self._num_layers = architecture.num_layers
        self._num_kv_heads, self._head_dim = architecture.num_kv_heads, architecture.head_dim
        self._device, self._dtype = device, dtype
        self.release()

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """The layer's k_RHCD and v_RHCD."""
        return self._layers[index]

    def release(self) -> None:
        """Give all memory back."""
        empty = torch.empty(0, device=self._device, dtype=self._dtype)
        self._layers = [(empty, empty)] * self._num_layers
        self._rectangle = Rectangle()
        self._written: list[int] = []

    def reshape(self, rectangle: Rectangle) -> None:
        """Become this large, keeping what lies in both the old and the new rectangle."""
        if rectangle == self._rectangle:
            return
        old = self._rectangle
        for index, (k_RHCD, v_RHCD) in enumerate(self._layers):  # a layer at a time, so that two never exist whole
            self._layers[index] = (self._enlarged(k_RHCD, rectangle), self._enlarged(v_RHCD, rectangle))
        kept = [min(end, rectangle.capacity) for end in self._written[: rectangle.rows]]
        self._written = kept + [0] * max(rectangle.rows - old.rows, 0)
        self._rectangle = rectangle

    def move(self, move: Move) -> None:
        """Put a sequence's keys and values into another row."""
        self._wipe(move.target)
        for layer in self._layers:
            for values_RHCD in layer:
                values_RHCD[move.target, :, : move.num_tokens] = values_RHCD[move.source, :, : move.num_tokens]
        self._written[move.target] = move.num_tokens

    def reserve(self, row: int, start: int, end: int) -> None:
        """Announce that tokens `start` to `end` are written next; a sequence that begins finds an empty row."""
        if start == 0:
            self._wipe(row)
        self._written[row] = end

    def _wipe(self, row: int) -> None:
        for layer in self._layers:
            for values_RHCD in layer:
                values_RHCD[row, :, : self._written[row]] = 0

    def _enlarged(self, old_RHCD: Tensor, rectangle: Rectangle) -> Tensor:
        shape = (rectangle.rows, self._num_kv_heads, rectangle.capacity, self._head_dim)
        new_RHCD = torch.zeros(shape, device=self._device, dtype=self._dtype)
        if old_RHCD.numel():
            rows, capacity = min(old_RHCD.shape[0], shape[0]), min(old_RHCD.shape[2], shape[2])
            new_RHCD[:rows, :, :capacity] = old_RHCD[:rows, :, :capacity]
        return new_RHCD
