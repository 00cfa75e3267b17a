"""The keys and values of all running sequences, as one rectangle in each layer. It knows rows, not whose they are.

Beside the rectangle it keeps blocks: copies of stretches of rows, by number, that later rows may begin with.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.pages import zeros
from brie_server.engine.torch.prefix import BLOCK
from brie_server.engine.torch.shapes import EXACT, Shapes
from brie_server.engine.torch.step import Keep, Move, Rectangle, Restore


class Cache:
    """Per layer kv_2RHCD, [keys and values, rows, kv_heads, capacity, head_dim]: attention reads it as plain views.

    A row is wiped before it changes hands. Masking alone would not do: a weight of zero times a NaN that an earlier
    sequence left is NaN.
    """

    def __init__(
        self, architecture: Architecture, device: torch.device, dtype: torch.dtype, shapes: Shapes = EXACT
    ) -> None:
        self.num_layers = architecture.num_layers
        self._num_kv_heads, self._head_dim = architecture.num_kv_heads, architecture.head_dim
        self._device, self._dtype, self._shapes = device, dtype, shapes
        self._blocks: dict[int, Tensor] = {}
        """Each kv_L2HBD, all layers of one stretch."""
        self.tensors = object()
        """Another one whenever the rectangle has other tensors than before."""
        self.release()

    @property
    def num_blocks(self) -> int:
        """Blocks that are kept."""
        return len(self._blocks)

    def layer(self, index: int) -> Tensor:
        """The layer's kv_2RHCD."""
        return self._layers[index]

    def release(self) -> None:
        """Give back the rectangle; the blocks stay."""
        self.tensors = object()
        self._layers = [torch.empty(0, device=self._device, dtype=self._dtype)] * self.num_layers
        self._rectangle = Rectangle()
        self._written: list[int] = []

    def reshape(self, rectangle: Rectangle) -> None:
        """Become this large, keeping what was written that lies in both the old and the new rectangle."""
        if rectangle == self._rectangle:
            return
        kept = [min(end, rectangle.capacity) for end in self._written[: rectangle.rows]]
        extent = self._extent(kept, rectangle)
        for index, kv_2RHCD in enumerate(self._layers):  # a layer at a time, so that two never exist whole
            self._layers[index] = self._copied(kv_2RHCD, rectangle, extent)
        self._written = kept + [0] * (rectangle.rows - len(kept))
        self.tensors = object()
        self._rectangle = rectangle

    def move(self, move: Move) -> None:
        """Put a sequence's keys and values into another row."""
        self._wipe(move.target)
        end = self._covering(move.num_tokens)
        for kv_2RHCD in self._layers:
            kv_2RHCD[:, move.target, :, :end] = kv_2RHCD[:, move.source, :, :end]
        self._written[move.target] = move.num_tokens

    def reserve(self, row: int, start: int, end: int) -> None:
        """Announce that tokens `start` to `end` are written next; a sequence that begins finds an empty row."""
        if start == 0:
            self._wipe(row)
        self._written[row] = end

    def restore(self, restore: Restore) -> None:
        """Begin a row with kept blocks."""
        self._wipe(restore.row)
        blocks = [self._blocks[block] for block in restore.blocks]
        start = 0
        for kv_L2HCD in blocks if self._shapes.few else [torch.cat(blocks, dim=3)]:
            end = start + kv_L2HCD.shape[3]
            for kv_2RHCD, kv_2HCD in zip(self._layers, kv_L2HCD, strict=True):
                kv_2RHCD[:, restore.row, :, start:end] = kv_2HCD
            start = end
        self._written[restore.row] = start

    def keep(self, keep: Keep) -> None:
        """Copy a stretch of a row to a block of its own."""
        end = keep.start + BLOCK
        self._blocks[keep.block] = torch.stack([each[:, keep.row, :, keep.start : end] for each in self._layers])

    def drop(self, block: int) -> None:
        """Free a block."""
        del self._blocks[block]

    def drop_all(self) -> None:
        """Free all blocks."""
        self._blocks.clear()

    def _wipe(self, row: int) -> None:
        if end := self._covering(self._written[row]):
            for kv_2RHCD in self._layers:
                kv_2RHCD[:, row, :, :end] = 0

    def _covering(self, written: int) -> int:
        """Where to stop when so much of a row is wiped or moved; what lies behind it is zero."""
        return self._shapes.positions(written, self._rectangle.capacity) if written else 0

    def _extent(self, kept: Sequence[int], rectangle: Rectangle) -> Rectangle:
        """Covers all that is kept, and lies in the old and the new rectangle."""
        if not any(kept):
            return Rectangle()
        rows = self._shapes.count(max(row for row, end in enumerate(kept) if end) + 1)
        return Rectangle(min(rows, len(kept)), min(self._covering(max(kept)), rectangle.capacity))

    def _copied(self, old_2RHCD: Tensor, rectangle: Rectangle, extent: Rectangle) -> Tensor:
        shape = (2, rectangle.rows, self._num_kv_heads, rectangle.capacity, self._head_dim)
        new_2RHCD = zeros(shape, self._device, self._dtype)
        if extent.num_tokens:
            rows, end = slice(extent.rows), slice(extent.capacity)
            new_2RHCD[:, rows, :, end] = old_2RHCD[:, rows, :, end]
        return new_2RHCD
