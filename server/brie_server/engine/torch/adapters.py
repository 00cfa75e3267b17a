"""The adapters that are loaded, and which slot each stands in. It knows digests, and no layer.

An adapter comes into a slot with the first step that needs it, and stays until another needs the place: a step whose
adapters are those of the step before copies nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch

from brie_core.weights.lora import LoraAdapter
from brie_server.engine.torch.architecture import Architecture
from brie_server.engine.torch.lora import DeviceAdapter, adapter_dtype, put_on_device
from brie_server.engine.torch.lora_pool import LoraBatch, Pool
from brie_server.engine.torch.lora_share import Run, Share, in_few_shapes, share_out
from brie_server.engine.torch.lora_windows import NOBODY, Window
from brie_server.engine.torch.shapes import EXACT, Shapes

_SMALLEST_RANK = 8
_ROOMY = 8
"""Slots that a pool has before adapters must make place for each other: requests in turn then copy nothing."""
_RESERVED = 32
"""Slots that a pool on a CPU grows into without copying what it holds, which would stall all answers."""
_SPARSE = 4
"""A pool of which no more than one slot in so many is taken is given up; the next step puts back what it needs."""


class Adapters:
    """Used by the engine's thread alone."""

    def __init__(
        self, architecture: Architecture, device: torch.device, dtype: torch.dtype, shapes: Shapes = EXACT
    ) -> None:
        self._architecture, self._shapes = architecture, shapes
        self._like = torch.empty(0, device=device, dtype=adapter_dtype(device, dtype))
        self._loaded: dict[str, DeviceAdapter] = {}
        self._pools: dict[int, Pool] = {}
        self._slots: dict[int, dict[str, int]] = defaultdict(dict)
        """By rank: the slot of each adapter in the pool, least recently used first."""

    @property
    def num_bytes(self) -> int:
        """Memory that adapters and pools hold."""
        loaded = sum(adapter.num_bytes for adapter in self._loaded.values())
        return loaded + sum(pool.num_bytes for pool in self._pools.values())

    def prepare(self, adapter: LoraAdapter) -> DeviceAdapter:
        """What `load` takes; may be called on any thread. Raises InvalidAdapter."""
        return put_on_device(adapter, self._architecture, self._like.device, self._like.dtype)

    def get(self, digest: str) -> DeviceAdapter | None:
        """A loaded adapter."""
        return self._loaded.get(digest)

    def load(self, digest: str, adapter: DeviceAdapter) -> DeviceAdapter:
        """Take an adapter in, unless it is there already; returns the one that counts."""
        return self._loaded.setdefault(digest, adapter)

    def unload(self, digest: str) -> None:
        """Forget an adapter and free its memory; an unknown one is no error."""
        if (adapter := self._loaded.pop(digest, None)) is None:
            return
        rank = _pool_rank(adapter)
        slots = self._slots[rank]
        slots.pop(digest, None)
        if rank in self._pools and len(slots) * _SPARSE <= self._pools[rank].num_slots:
            del self._pools[rank]
            slots.clear()

    def batch(self, tokens: Sequence[tuple[str | None, int]]) -> LoraBatch | None:
        """For a step with runs of so many tokens of these digests; None when all of them are the base model's."""
        if not (slots := self._seated(tokens)):
            return None
        shares = [
            (self._pools[rank], share) for rank, here in slots.items() for share in self._shares(rank, tokens, here)
        ]
        return LoraBatch(shares, sum(count for _, count in tokens), self._like.device)

    def windows(self, tokens: Sequence[tuple[str | None, int]], shapes: Shapes) -> list[Window]:
        """The same for a step that is recorded: which slots of which pools it looks at."""
        return [_window(self._pools[rank], tokens, slots, shapes) for rank, slots in self._seated(tokens).items()]

    def _seated(self, tokens: Sequence[tuple[str | None, int]]) -> dict[int, dict[str, int]]:
        """By rank, the slot of each adapter of a step; none for the base model alone."""
        by_rank: dict[int, list[str]] = defaultdict(list)
        for digest in sorted({digest for digest, _ in tokens if digest is not None}):
            by_rank[_pool_rank(self._loaded[digest])].append(digest)
        return {rank: self._seat(rank, here) for rank, here in by_rank.items()}

    def _shares(self, rank: int, tokens: Sequence[tuple[str | None, int]], slots: dict[str, int]) -> Iterable[Share]:
        share = share_out(_runs(tokens, slots))
        return in_few_shapes(share, self._shapes, self._pools[rank].num_slots) if self._shapes.few else [share]

    def _seat(self, rank: int, digests: Iterable[str]) -> dict[str, int]:
        """See to it that each has a slot in its pool."""
        pool = self._pools.get(rank)
        if pool is None:
            reserved = _RESERVED if self._like.device.type == "cpu" else 0
            pool = self._pools[rank] = Pool(rank, self._architecture, self._like, reserved)
        slots = self._slots[rank]
        wanted = list(digests)
        for digest in wanted:
            if digest in slots:
                slots[digest] = slots.pop(digest)  # now the most recently used
        for digest in wanted:
            if digest not in slots:
                slot = self._free_slot(pool, slots, keep=set(wanted))
                pool.put(slot, self._loaded[digest])
                slots[digest] = slot
        return {digest: slots[digest] for digest in wanted}

    def _free_slot(self, pool: Pool, slots: dict[str, int], keep: set[str]) -> int:
        """An empty slot, else one whose adapter this step does not need, else one in a larger pool."""
        if free := set(range(pool.num_slots)) - set(slots.values()):
            return min(free)
        if pool.num_slots >= _ROOMY and (unused := next((digest for digest in slots if digest not in keep), None)):
            return slots.pop(unused)
        pool.grow(max(2 * pool.num_slots, 1))
        return len(slots)


def _window(pool: Pool, tokens: Sequence[tuple[str | None, int]], slots: Mapping[str, int], shapes: Shapes) -> Window:
    first, last = min(slots.values()), max(slots.values())
    of_tokens = tuple(
        NOBODY if digest is None else slots.get(digest, NOBODY) for digest, count in tokens for _ in range(count)
    )
    return Window(pool, *shapes.window(first, last - first + 1, pool.num_slots), of_tokens)


def _pool_rank(adapter: DeviceAdapter) -> int:
    """The next power of two, so that few ranks share few pools."""
    return max(1 << (adapter.rank - 1).bit_length(), _SMALLEST_RANK)


def _runs(tokens: Sequence[tuple[str | None, int]], slots: dict[str, int]) -> Iterable[Run]:
    start = 0
    for digest, count in tokens:
        if digest in slots:
            yield Run(start, count, slots[digest])
        start += count
