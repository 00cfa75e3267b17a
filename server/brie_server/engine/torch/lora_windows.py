"""The adapters of a recorded step: all its tokens times all slots, and each sees its own. It knows slots, and no names.

Which token has which adapter is then nothing but numbers: a recording does for whatever mix comes, the base included.
On an accelerator the products that nobody sees cost less than gathering tokens and scattering what comes of them.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_server.engine.torch.architecture import PARTS, Site
from brie_server.engine.torch.lora_pool import Pool

NOBODY = -1
"""The slot of a token that has no adapter here."""


@dataclass(frozen=True, slots=True)
class Window:
    """Adjacent slots of one pool, and which of them each token has."""

    pool: Pool
    first: int
    num_slots: int
    slots: tuple[int, ...]
    """One for each token: the numbers of its part in a step."""

    @property
    def layout(self) -> Hashable:
        """Everything else, and which tensors the pool has."""
        return self.pool.tensors, self.first, self.num_slots


class WindowsBatch:
    """What all adapters of a recorded step add to its tokens."""

    def __init__(self, windows: Sequence[Window], numbers_X: Tensor) -> None:
        """`numbers_X` are the slots of the windows, one after the other."""
        of_windows = torch.split(numbers_X, [len(window.slots) for window in windows])
        self._windows = [_WindowBatch(window, own_N) for window, own_N in zip(windows, of_windows, strict=True)]

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor) -> None:
        """Add to `out_NO` what each token's own adapter makes of `x_NI`."""
        for window in self._windows:
            window.add(layer, site, x_NI, out_NO)


class _WindowBatch:
    def __init__(self, window: Window, slots_N: Tensor) -> None:
        self._pool, self._slots = window.pool, slice(window.first, window.first + window.num_slots)
        slots_S = torch.arange(window.first, window.first + window.num_slots, device=slots_N.device)
        hidden_NS = slots_N[:, None] != slots_S
        self._hidden = {
            parts: hidden_NS[..., None].expand(-1, -1, parts * self._pool.rank).flatten(1)
            for parts in {*map(len, PARTS.values())}
        }
        """By the number of a site's parts: which of all inner products [N, S * K] are not a token's own."""

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor) -> None:
        if (stack := self._pool.stack(layer, site)) is None:
            return
        a_XI, b_XO = stack.a_SKI[self._slots].flatten(0, 1), stack.b_SKO[self._slots].flatten(0, 1)
        inner_NX = x_NI.to(a_XI.dtype) @ a_XI.T
        # filled, not multiplied: another adapter's infinity times zero would be NaN
        inner_NX.masked_fill_(self._hidden[len(PARTS[site])], 0)
        out_NO.addmm_(inner_NX, b_XO)
