"""One step as tensors: which tokens, where in the cache, who sees what. It knows shapes, not what they are for.

    step -> layout and numbers -> (one copy to the device) -> batch

The layout is all that decides which operations are done, on tensors of which shapes; the numbers are what is in them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.sequence import row_of
from brie_server.engine.torch.shapes import EXACT, Shapes, padded
from brie_server.engine.torch.step import Chunk, Rectangle, Step


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


@dataclass(frozen=True, slots=True)
class GroupLayout:
    """A group but for the numbers in its tensors."""

    first_token: int
    end_token: int
    """Behind its last; with few shapes, where nobody asks, both are 0."""
    first_row: int
    num_rows: int
    places: int
    """n, in each row."""
    longest: int
    out_of_order: int
    """Tokens whose places must be told; 0 where every place has its token, in order, or places have homes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A step but for the numbers in its tensors: two steps of one layout are the same computation."""

    rectangle: Rectangle
    num_tokens: int
    num_single: int
    num_wanted: int
    groups: tuple[GroupLayout, ...]
    has_homes: bool
    """With few shapes, unless all chunks are single tokens, which have a place each."""


def lay_out(step: Step, shapes: Shapes = EXACT) -> tuple[Layout, list[int]]:
    """The step's layout, and all its numbers one after the other, as `build_batch` reads them."""
    token_ids = [token for each in step.chunks for token in each.sequence.token_ids[each.start : each.end]]
    positions = [position for each in step.chunks for position in range(each.start, each.end)]
    rows = [row_of(chunk.sequence) for chunk in step.chunks for _ in range(chunk.num_tokens)]
    size = shapes.count(len(token_ids))
    of_tokens = [padded(each, size) for each in (token_ids, positions, rows, range(len(token_ids)))]
    wanted = _wanted(step, shapes)
    groups, numbers = [], [number for each in (*of_tokens, wanted) for number in each]
    num_single = sum(chunk.num_tokens == 1 for chunk in step.chunks)
    has_homes = shapes.few and num_single < len(step.chunks)
    for chunks, first in _groups(step.chunks, shapes):
        group, of_group = _lay_out_group(chunks, first, step.rectangle, size if has_homes else None, shapes)
        groups.append(group)
        numbers += of_group
    return Layout(step.rectangle, size, 0 if shapes.few else num_single, len(wanted), tuple(groups), has_homes), numbers


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


def _wanted(step: Step, shapes: Shapes) -> list[int]:
    sampled, scored, end = [], [], 0
    for chunk in step.chunks:
        end += chunk.num_tokens
        scored += [end - chunk.end + position for position in chunk.scored]
        if chunk.samples:
            sampled.append(end - 1)
    wanted = sampled + scored
    return padded(wanted or [0], shapes.count(len(wanted))) if shapes.few else wanted


def _slots(rectangle: Rectangle, rows_N: Tensor, positions_N: Tensor, num_kv_heads: int) -> Tensor:
    """The cache of a layer is a table with one line of head_dim numbers for each (k or v, row, head, position)."""
    heads_H = torch.arange(num_kv_heads, device=positions_N.device)
    keys_NH = (rows_N[:, None] * num_kv_heads + heads_H) * rectangle.capacity + positions_N[:, None]
    values_NH = keys_NH + rectangle.num_tokens * num_kv_heads
    return torch.cat([keys_NH, values_NH], 1).flatten()


def _groups(chunks: Sequence[Chunk], shapes: Shapes) -> Iterable[tuple[Sequence[Chunk], int]]:
    """Single tokens together, whatever lies between their rows; prompts in adjacent rows while little is padding.

    With few shapes each prompt is by itself. Each group comes with the number of its first token.
    """
    group: list[Chunk] = []
    first = 0
    for chunk in chunks:
        if group and not (_may_join(group, chunk) and (not shapes.few or chunk.num_tokens == 1)):
            yield group, first
            first += sum(each.num_tokens for each in group)
            group = []
        group.append(chunk)
    if group:
        yield group, first


def _may_join(group: list[Chunk], chunk: Chunk) -> bool:
    if group[-1].num_tokens == 1 or chunk.num_tokens == 1:
        return group[-1].num_tokens == chunk.num_tokens
    together = [*group, chunk]
    adjacent = all(row_of(a.sequence) + 1 == row_of(b.sequence) for a, b in pairwise(together))
    padded = len(together) * max(each.num_tokens for each in together)
    return adjacent and padded <= 2 * sum(each.num_tokens for each in together)


def _lay_out_group(
    chunks: Sequence[Chunk], first_token: int, rectangle: Rectangle, nobody: int | None, shapes: Shapes
) -> tuple[GroupLayout, list[int]]:
    """`nobody` is whom places answer for that are padding, where places have homes."""
    rows = [row_of(chunk.sequence) for chunk in chunks]
    first_row, num_rows = shapes.window(min(rows), max(rows) - min(rows) + 1, rectangle.rows)
    n = shapes.count(max(chunk.num_tokens for chunk in chunks))
    longest = shapes.positions(max(chunk.end for chunk in chunks), rectangle.capacity)
    token_of_place, last_seen = [0] * (num_rows * n), [0] * (num_rows * n)
    home = [0 if nobody is None else nobody] * (num_rows * n)
    places: list[int] = []
    token = first_token
    for chunk in chunks:
        place = (row_of(chunk.sequence) - first_row) * n
        tokens = padded(range(token, token + chunk.num_tokens), n)
        token_of_place[place : place + n] = home[place : place + n] = tokens
        last_seen[place : place + n] = padded(range(chunk.start, chunk.end), n)
        places.extend(range(place, place + chunk.num_tokens))
        token += chunk.num_tokens
    if nobody is None:
        places, home = padded(places, shapes.count(len(places))), []
    if nobody is not None or places == list(range(len(token_of_place))):
        places = []
    ends = (0, 0) if shapes.few else (first_token, token)
    layout = GroupLayout(*ends, first_row, num_rows, n, longest, len(places))
    return layout, [*last_seen, *token_of_place, *places, *home]


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
