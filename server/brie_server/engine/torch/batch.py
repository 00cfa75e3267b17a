"""One step as tensors: which tokens, where in the cache, who sees what. It knows shapes, not what they are for."""

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
    """With few shapes: which token each place answers for, N for those that are padding; None otherwise."""
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
    """The first so many tokens are alone in their rows."""
    logits_S: Tensor
    """The tokens after which logits are wanted: first for `step.sampling`, then for the prompts' logprobs."""
    slots_M: Tensor
    """For each token's keys, then its values, by head: the line of the layer's cache in which it is written."""
    groups: tuple[Group, ...]
    token_computed_N: Tensor | None
    """With few shapes: the token of the step that each one is or repeats; None otherwise."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return self.token_ids_N.shape[0]


@dataclass(frozen=True, slots=True)
class _Making:
    """What all groups of a step are made with."""

    rectangle: Rectangle
    num_tokens: int
    architecture: Architecture
    device: torch.device
    dtype: torch.dtype
    shapes: Shapes


def build_batch(
    step: Step, architecture: Architecture, device: torch.device, dtype: torch.dtype, shapes: Shapes = EXACT
) -> Batch:
    """The tensors for a step, on the device."""
    token_ids = [token for each in step.chunks for token in each.sequence.token_ids[each.start : each.end]]
    positions = [position for each in step.chunks for position in range(each.start, each.end)]
    rows = [row_of(chunk.sequence) for chunk in step.chunks for _ in range(chunk.num_tokens)]
    size = shapes.count(len(token_ids))
    making = _Making(step.rectangle, size, architecture, device, dtype, shapes)
    of_tokens = [padded(each, size) for each in (token_ids, positions, rows, range(len(token_ids)))]
    token_ids_N, positions_N, rows_N, computed_N, logits_S = _on_device([*of_tokens, _wanted(step, shapes)], device)
    slots_M = _slots(step.rectangle, rows_N, positions_N, architecture.num_kv_heads)
    groups = tuple(_all_groups(step, making))
    num_single = sum(chunk.num_tokens == 1 for chunk in step.chunks)
    computed = computed_N if shapes.few else None
    return Batch(token_ids_N, positions_N, rows_N, num_single, logits_S, slots_M, groups, computed)


def _on_device(lists: Iterable[Sequence[int]], device: torch.device) -> tuple[Tensor, ...]:
    """All of them in one copy: on an accelerator each costs a round trip, however small it is."""
    lists = list(lists)
    flat = torch.tensor([number for each in lists for number in each], device=device, dtype=torch.long)
    return torch.split(flat, [len(each) for each in lists])


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


def _all_groups(step: Step, making: _Making) -> Iterable[Group]:
    first = 0
    for chunks in _groups(step.chunks, making.shapes):
        yield _group(chunks, first, making)
        first += sum(chunk.num_tokens for chunk in chunks)


def _groups(chunks: Sequence[Chunk], shapes: Shapes) -> Iterable[Sequence[Chunk]]:
    """Single tokens together, whatever lies between their rows; prompts in adjacent rows while little is padding.

    With few shapes each prompt is by itself.
    """
    group: list[Chunk] = []
    for chunk in chunks:
        if group and not (_may_join(group, chunk) and (not shapes.few or chunk.num_tokens == 1)):
            yield group
            group = []
        group.append(chunk)
    if group:
        yield group


def _may_join(group: list[Chunk], chunk: Chunk) -> bool:
    if group[-1].num_tokens == 1 or chunk.num_tokens == 1:
        return group[-1].num_tokens == chunk.num_tokens
    together = [*group, chunk]
    adjacent = all(row_of(a.sequence) + 1 == row_of(b.sequence) for a, b in pairwise(together))
    padded = len(together) * max(each.num_tokens for each in together)
    return adjacent and padded <= 2 * sum(each.num_tokens for each in together)


def _group(chunks: Sequence[Chunk], first_token: int, making: _Making) -> Group:
    rows, shapes = [row_of(chunk.sequence) for chunk in chunks], making.shapes
    first_row, num_rows = shapes.window(min(rows), max(rows) - min(rows) + 1, making.rectangle.rows)
    n = shapes.count(max(chunk.num_tokens for chunk in chunks))
    longest = shapes.positions(max(chunk.end for chunk in chunks), making.rectangle.capacity)
    token_of_place, last_seen, home = [0] * (num_rows * n), [0] * (num_rows * n), [making.num_tokens] * (num_rows * n)
    places: list[int] = []
    token = first_token
    for chunk in chunks:
        place = (row_of(chunk.sequence) - first_row) * n
        tokens = padded(range(token, token + chunk.num_tokens), n)
        token_of_place[place : place + n] = home[place : place + n] = tokens
        last_seen[place : place + n] = padded(range(chunk.start, chunk.end), n)
        places.extend(range(place, place + chunk.num_tokens))
        token += chunk.num_tokens
    in_order = shapes.few or places == list(range(len(token_of_place)))
    lists = [last_seen, token_of_place, [] if in_order else places, home if shapes.few else []]
    last_seen_Pn, token_of_place_Pn, places_T, home_Pn = _on_device(lists, making.device)
    bias = {
        window: _bias(last_seen_Pn.view(num_rows, n), longest, window, making.architecture, making.dtype)
        for window in making.architecture.windows
    }
    return Group(
        slice(first_token, token),
        first_row,
        num_rows,
        longest,
        token_of_place_Pn,
        None if in_order else places_T,
        home_Pn if shapes.few else None,
        bias,
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
