"""Which stretches of keys and values are kept for later prompts, and whose they are. It knows ids, and no tensor.

A block is 32 tokens that follow an exact sequence of blocks, whose first follows an adapter's digest (or the base).
Two prompts share a block only if adapter and all tokens up to its end are equal, so a moved name never meets the keys
and values of the version it pointed at before.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import count

BLOCK = 32
"""Tokens in a block: shorter ones match more and cost more copies."""

_Key = tuple["int | str | None", tuple[int, ...]]
"""What a block follows, an adapter or a block, and its own tokens."""


class PrefixIndex:
    """The blocks that are kept, least recently used first."""

    def __init__(self, max_blocks: int) -> None:
        self._max_blocks = max_blocks
        self._ids = count()
        self._blocks: OrderedDict[_Key, int] = OrderedDict()
        self._adapters: dict[int, str | None] = {}

    def match(self, adapter: str | None, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The kept blocks that `token_ids` begin with; one token at least is left over, for its logits are wanted."""
        found: list[int] = []
        keys: list[_Key] = []
        for tokens in _whole_blocks(token_ids[:-1]):
            key = (found[-1] if found else adapter, tokens)
            if (block := self._blocks.get(key)) is None:
                break
            found.append(block)
            keys.append(key)
        for key in reversed(keys):  # so that a block is never older than one that follows it
            self._blocks.move_to_end(key)
        return tuple(found)

    def keep(self, adapter: str | None, token_ids: Sequence[int], start: int) -> list[tuple[int, int]]:
        """Announce that all of `token_ids` are computed; the new blocks that end behind `start`, as (id, position)."""
        if not self._max_blocks:
            return []
        new: list[tuple[int, int]] = []
        parent: int | str | None = adapter
        for index, tokens in enumerate(_whole_blocks(token_ids)):
            key = (parent, tokens)
            if (block := self._blocks.get(key)) is None:
                if (index + 1) * BLOCK <= start:
                    return []  # an earlier block was dropped: what follows it could not be found
                block = self._blocks[key] = next(self._ids)
                self._adapters[block] = adapter
                new.append((block, index * BLOCK))
            parent = block
        return new

    def drop_excess(self) -> tuple[int, ...]:
        """Forget the least recently used blocks above the limit; returns them."""
        excess = len(self._blocks) - self._max_blocks
        return tuple(self._forget(next(iter(self._blocks))) for _ in range(max(excess, 0)))

    def drop_adapter(self, adapter: str) -> tuple[int, ...]:
        """Forget all blocks of an adapter; returns them."""
        keys = [key for key, block in self._blocks.items() if self._adapters[block] == adapter]
        return tuple(self._forget(key) for key in keys)

    def clear(self) -> None:
        """Forget everything."""
        self._blocks.clear()
        self._adapters.clear()

    def _forget(self, key: _Key) -> int:
        block = self._blocks.pop(key)
        del self._adapters[block]
        return block


def _whole_blocks(token_ids: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for end in range(BLOCK, len(token_ids) + 1, BLOCK):
        yield tuple(token_ids[end - BLOCK : end])
