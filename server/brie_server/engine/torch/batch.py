"""One step as tensors: which tokens, where in the cache, who sees what. It knows shapes, not what they are for."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.layout import GroupLayout, Layout
from brie_server.engine.torch.step import Rectangle


@dataclass(frozen=True, slots=True)
class Group:
    """Adjacent rows of the cache whose tokens attend in one product: P rows of up to n tokens, padded to a rectangle.

    With G query heads for each key head there are M = G * n queries, head by head.
    """

    tokens: slice
    """Which of the step's tokens it holds."""
    first: int
    """Its first row in the cache."""
    num_rows: int
    longest: int
    """Positions of the cache that any of its tokens looks at."""
    token_of_place_Pn: Tensor
    """Which token stands at each place; any token for a place that is padding."""
    place_of_token_T: Tensor | None
    """Where each of the group's tokens stands; None if every place has its token, in order, or a home."""
    home_of_place_Pn: Tensor | None
    """Which token each place answers for, N for those that are padding; None where places have no homes."""
    bias_of_window: Mapping[int | None, Tensor]
    """Per attention window bias_P1MC: minus infinity where a query must not look."""


@dataclass(frozen=True, slots=True)
class Batch:
    """All tokens of a step, flat; the groups follow one another in the same order.

    With few shapes the last token, and the last that is sampled, are repeated: N and S are then larger than the step's.
    """

    token_ids_N: Tensor
    positions_N: Tensor
    rows_N: Tensor
    """Each token's row in the cache."""
    num_single: int
    """The first so many tokens are alone in their rows; with few shapes, where nobody asks, 0."""
    logits_S: Tensor
    """The tokens after which logits are wanted: first for `step.sampling`, then for the prompts' logprobs."""
    slots_M: Tensor
    """For each token's keys, then its values, by head: the line of the layer's cache in which it is written."""
    groups: tuple[Group, ...]
    token_computed_N: Tensor | None
    """Where places have homes: the token of the step that each one is or repeats; None otherwise."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.token_ids_N.shape[0]


def build_batch(layout: Layout, numbers_X: Tensor, architecture: Architecture, dtype: torch.dtype) -> Batch:
    """The tensors of a step, on the device of its numbers; whatever is read from those is computed there."""
    numbers = _Numbers(numbers_X)
    token_ids_N, positions_N, rows_N, computed_N = (numbers.next(layout.num_tokens) for _ in range(4))
    logits_S = numbers.next(layout.num_wanted)
    return Batch(
        token_ids_N,
        positions_N,
        rows_N,
        layout.num_single,
        logits_S,
        _slots(layout.rectangle, rows_N, positions_N, architecture.num_kv_heads),
        tuple(_group(each, numbers, architecture, dtype, layout.has_homes) for each in layout.groups),
        computed_N if layout.has_homes else None,
    )


class _Numbers:
    """Reads a step's numbers in the order in which they were laid out."""

    def __init__(self, numbers_X: Tensor) -> None:
        self._numbers_X, self._read = numbers_X, 0

    def next(self, count: int) -> Tensor:
        """The next so many."""
        begin, self._read = self._read, self._read + count
        return self._numbers_X[begin : self._read]


def _slots(rectangle: Rectangle, rows_N: Tensor, positions_N: Tensor, num_kv_heads: int) -> Tensor:
    """The cache of a layer is a table with one line of head_dim numbers for each (k or v, row, head, position)."""
    heads_H = torch.arange(num_kv_heads, device=positions_N.device)
    keys_NH = (rows_N[:, None] * num_kv_heads + heads_H) * rectangle.capacity + positions_N[:, None]
    values_NH = keys_NH + rectangle.num_tokens * num_kv_heads
    return torch.cat([keys_NH, values_NH], 1).flatten()


def _group(
    layout: GroupLayout,
    numbers: _Numbers,
    architecture: Architecture,
    dtype: torch.dtype,
    has_homes: bool,  # noqa: FBT001
) -> Group:
    num_places = layout.num_rows * layout.places
    last_seen_Pn = numbers.next(num_places).view(layout.num_rows, layout.places)
    token_of_place_Pn = numbers.next(num_places)
    return Group(
        slice(layout.first_token, layout.end_token),
        layout.first_row,
        layout.num_rows,
        layout.longest,
        token_of_place_Pn,
        numbers.next(layout.out_of_order) if layout.out_of_order else None,
        numbers.next(num_places) if has_homes else None,
        {window: _bias(last_seen_Pn, layout.longest, window, architecture, dtype) for window in architecture.windows},
    )


def _bias(
    last_seen_Pn: Tensor, longest: int, window: int | None, architecture: Architecture, dtype: torch.dtype
) -> Tensor:
    """bias_P1MC for queries that see the positions up to `last_seen_Pn`, and of these the last `window`."""
    positions_C = torch.arange(longest, device=last_seen_Pn.device)
    hidden_PnC = positions_C > last_seen_Pn[..., None]
    if window is not None:
        hidden_PnC |= positions_C <= last_seen_Pn[..., None] - window
    bias_PnC = torch.zeros(hidden_PnC.shape, device=last_seen_Pn.device, dtype=dtype)
    bias_PnC.masked_fill_(hidden_PnC, float("-inf"))
    return bias_PnC.repeat(1, architecture.num_heads // architecture.num_kv_heads, 1)[:, None]
