"""One step as tensors: which tokens, where in the cache, who sees what. It knows shapes, not what they are for."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.sequence import row_of
from brie_server.engine.torch.step import Chunk, Rectangle, Step


@dataclass(frozen=True, slots=True)
class Group:
    """Adjacent rows of the cache whose tokens attend in one product: P rows of up to n tokens, padded to a rectangle.

    With G query heads for each key head there are M = G * n queries, head by head.
    """

    first: int
    """Its first row in the cache."""
    num_rows: int
    longest: int
    """Positions of the cache that any of its tokens looks at."""
    token_of_place_Pn: Tensor
    """Which token stands at each place; any token for a place that is padding."""
    place_of_token_T: Tensor | None
    """Where each of the group's tokens stands; None if every place has its token, in order."""
    bias_of_window: Mapping[int | None, Tensor]
    """Per attention window bias_P1MC: minus infinity where a query must not look."""


@dataclass(frozen=True, slots=True)
class Batch:
    """All tokens of a step, flat; the groups follow one another in the same order."""

    token_ids_N: Tensor
    positions_N: Tensor
    logits_S: Tensor
    """The tokens after which logits are wanted: first for `step.sampling`, then for the prompts' logprobs."""
    slots_M: Tensor
    """For each token's keys, then its values, by head: the line of the layer's cache in which it is written."""
    groups: tuple[Group, ...]


def build_batch(step: Step, architecture: Architecture, device: torch.device, dtype: torch.dtype) -> Batch:
    """The tensors for a step, on the device."""
    token_ids = [token for each in step.chunks for token in each.sequence.token_ids[each.start : each.end]]
    positions = [position for each in step.chunks for position in range(each.start, each.end)]
    groups, first = [], 0
    for chunks in _groups(step.chunks):
        groups.append(_group(chunks, first, architecture, device, dtype))
        first += sum(chunk.num_tokens for chunk in chunks)
    return Batch(
        torch.tensor(token_ids, device=device),
        positions_N := torch.tensor(positions, device=device),
        torch.tensor(_wanted(step), device=device, dtype=torch.long),
        _slots(step, positions_N, architecture.num_kv_heads),
        tuple(groups),
    )


def _wanted(step: Step) -> list[int]:
    sampled, scored, end = [], [], 0
    for chunk in step.chunks:
        end += chunk.num_tokens
        scored += [end - chunk.end + position for position in chunk.scored]
        if chunk.samples:
            sampled.append(end - 1)
    return sampled + scored


def _slots(step: Step, positions_N: Tensor, num_kv_heads: int) -> Tensor:
    """The cache of a layer is a table with one line of head_dim numbers for each (k or v, row, head, position)."""
    rectangle: Rectangle = step.rectangle
    rows = [row_of(chunk.sequence) for chunk in step.chunks for _ in range(chunk.num_tokens)]
    rows_N1 = torch.tensor(rows, device=positions_N.device)[:, None]
    heads_H = torch.arange(num_kv_heads, device=positions_N.device)
    keys_NH = (rows_N1 * num_kv_heads + heads_H) * rectangle.capacity + positions_N[:, None]
    values_NH = keys_NH + rectangle.num_tokens * num_kv_heads
    return torch.cat([keys_NH, values_NH], 1).flatten()


def _groups(chunks: Sequence[Chunk]) -> Iterable[Sequence[Chunk]]:
    """Single tokens together, whatever lies between their rows; prompts in adjacent rows while little is padding."""
    group: list[Chunk] = []
    for chunk in chunks:
        if group and not _may_join(group, chunk):
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


def _group(
    chunks: Sequence[Chunk], first_token: int, architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> Group:
    rows = [row_of(chunk.sequence) for chunk in chunks]
    first_row, num_rows = min(rows), max(rows) - min(rows) + 1
    n, longest = max(chunk.num_tokens for chunk in chunks), max(chunk.end for chunk in chunks)
    token_of_place, last_seen, places, token = [0] * (num_rows * n), [0] * (num_rows * n), [], first_token
    for chunk in chunks:
        place = (row_of(chunk.sequence) - first_row) * n
        for offset in range(chunk.num_tokens):
            token_of_place[place + offset], last_seen[place + offset] = token, chunk.start + offset
            places.append(place + offset)
            token += 1
    last_seen_Pn = torch.tensor(last_seen, device=device).view(num_rows, n)
    return Group(
        first_row,
        num_rows,
        longest,
        torch.tensor(token_of_place, device=device),
        None if places == list(range(len(token_of_place))) else torch.tensor(places, device=device),
        {window: _bias(last_seen_Pn, longest, window, architecture, dtype) for window in architecture.windows},
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
