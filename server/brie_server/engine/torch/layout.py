"""Which operations a step is, and the numbers that they are done with. Pure: it knows chunks and shapes, no tensor.

    step -> layout and numbers -> (one copy to the device) -> batch

The layout is all that decides which operations are done, on tensors of which shapes; the numbers are what is in them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from brie_server.engine.torch.sequence import row_of
from brie_server.engine.torch.shapes import EXACT, Shapes, padded
from brie_server.engine.torch.step import Chunk, Rectangle, Step


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


def _wanted(step: Step, shapes: Shapes) -> list[int]:
    sampled, scored, end = [], [], 0
    for chunk in step.chunks:
        end += chunk.num_tokens
        scored += [end - chunk.end + position for position in chunk.scored]
        if chunk.samples:
            sampled.append(end - 1)
    wanted = sampled + scored
    return padded(wanted or [0], shapes.count(len(wanted))) if shapes.few else wanted


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
