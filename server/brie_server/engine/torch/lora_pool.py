"""Adapters of one rank side by side, and their part in a step. It knows slots, and nothing of names or files.

A pool's tensors hold one adapter in each slot. A step multiplies each token with the pair in its own adapter's slot, as
one batched product over slots: nothing is merged, and there is no active adapter. A step that is recorded multiplies
all tokens with all slots instead, and hides from each token what is not its own: few operations, whoever is in it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_server.engine.torch.architecture import PARTS, Architecture, Site
from brie_server.engine.torch.lora import DeviceAdapter, Pair, Place
from brie_server.engine.torch.lora_share import Share
from brie_server.engine.torch.pages import zeros
from brie_server.engine.torch.rows import replace_rows


@dataclass(frozen=True, slots=True)
class _Stack:
    """One site's pairs in all slots: the parts' ranks stacked to K, their outputs side by side to O.

    Of b only the blocks where a part's ranks meet its outputs are not zero.
    """

    a_SKI: Tensor
    b_SKO: Tensor
    num_outputs: tuple[int, ...]
    """Of each part."""

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.a_SKI, self.b_SKO)

    def blocks(self, slot: int, rank: int) -> Iterator[tuple[Tensor, Tensor]]:
        """a_rI and b_rO of each part in a slot."""
        first = 0
        for number, num_outputs in enumerate(self.num_outputs):
            ranks, outputs = slice(number * rank, (number + 1) * rank), slice(first, first + num_outputs)
            yield self.a_SKI[slot, ranks], self.b_SKO[slot, ranks, outputs]
            first += num_outputs


class Pool:
    """Slots for adapters of at most one rank; it doubles when it is full."""

    def __init__(self, rank: int, architecture: Architecture, like: Tensor, num_reserved: int = 0) -> None:
        """`num_reserved` slots are grown into without a copy; on a CPU they take no memory before they are filled."""
        self.rank = rank
        self._architecture = architecture
        self._like = like
        self._stacks: dict[Place, _Stack] = {}
        self.tensors = object()
        """Another one whenever the pool has other tensors than before; what they hold may change meanwhile."""
        self._num_slots = 0
        self._num_reserved = num_reserved

    @property
    def num_slots(self) -> int:
        """Slots that exist."""
        return self._num_slots

    @property
    def num_bytes(self) -> int:
        """Memory that its slots hold."""
        reserved = sum(tensor.nbytes for stack in self._stacks.values() for tensor in stack.tensors)
        return reserved // max(self._num_reserved, 1) * self._num_slots

    def grow(self, num_slots: int) -> None:
        """Have so many slots, the new ones empty."""
        if num_slots > self._num_reserved:
            self._num_reserved, self.tensors = num_slots, object()
            for place, old in self._stacks.items():
                new = self._empty(place)
                for to, origin in zip(new.tensors, old.tensors, strict=True):
                    to[: self._num_slots] = origin[: self._num_slots]
                self._stacks[place] = new
        self._num_slots = num_slots

    def put(self, slot: int, adapter: DeviceAdapter) -> None:
        """Fill a slot; nothing is left of the adapter that was in it."""
        for place in adapter.pairs.keys() - self._stacks.keys():
            self._stacks[place], self.tensors = self._empty(place), object()
        for place, stack in self._stacks.items():
            pairs = adapter.pairs.get(place) or (None,) * len(stack.num_outputs)
            for (a_rI, b_rO), pair in zip(stack.blocks(slot, self.rank), pairs, strict=True):
                _put(pair, a_rI, b_rO)

    def stack(self, layer: int, site: Site) -> _Stack | None:
        """The pairs of a site, None where no adapter of this pool has any."""
        return self._stacks.get((layer, site))

    def _empty(self, place: Place) -> _Stack:
        shapes = [self._architecture.shape(part) for part in PARTS[place[1]]]
        num_outputs, ranks = tuple(out for out, _ in shapes), len(shapes) * self.rank
        return _Stack(
            self._zeros(self._num_reserved, ranks, shapes[0][1]),
            self._zeros(self._num_reserved, ranks, sum(num_outputs)),
            num_outputs,
        )

    def _zeros(self, *shape: int) -> Tensor:
        return zeros(shape, self._like.device, self._like.dtype)


def _put(pair: Pair | None, a_rI: Tensor, b_rO: Tensor) -> None:
    """Each number is written once: this is done between two steps of everybody's answers."""
    rank = 0
    if pair:
        rank = pair.a_rI.shape[0]
        a_rI[:rank], b_rO[:rank] = pair.a_rI, pair.b_rO
    if rank < a_rI.shape[0]:
        a_rI[rank:], b_rO[rank:] = 0, 0


class PoolBatch:
    """What one pool's adapters add to the tokens of one step."""

    def __init__(self, pool: Pool, share: Share, num_tokens: int, device: torch.device) -> None:
        self._pool, self._share = pool, share
        self._slots = slice(share.first, share.first + share.num_slots)
        is_full = share.num_slots * share.width == num_tokens
        self._is_plain = is_full and share.places == tuple(range(num_tokens)) == share.tokens
        """One adapter, or several in order with as many tokens each: every token is its own place."""
        self._has_all = share.tokens == tuple(range(num_tokens))
        token_of_place = [0] * (share.num_slots * share.width)
        for token, place in zip(share.tokens, share.places, strict=True):
            token_of_place[place] = token
        numbers = torch.tensor([*token_of_place, *share.tokens, *share.places], device=device, dtype=torch.long)
        sizes = [len(token_of_place), len(share.tokens), len(share.places)]  # one copy to the device for all three
        self._token_of_place, self._tokens_T, self._places_T = torch.split(numbers, sizes)

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor) -> None:
        """Add to `out_NO` what each token's own adapter makes of `x_NI`."""
        if (stack := self._pool.stack(layer, site)) is None:
            return
        x_NI = x_NI.to(stack.a_SKI.dtype)
        if self._share.num_slots:
            self._add_padded(stack, x_NI, out_NO)
        for run in self._share.long_runs:
            added_nO = x_NI[run.start : run.end] @ stack.a_SKI[run.slot].T @ stack.b_SKO[run.slot]
            out_NO[run.start : run.end].add_(added_nO)

    def _add_padded(self, stack: _Stack, x_NI: Tensor, out_NO: Tensor) -> None:
        x_PI = x_NI if self._is_plain else x_NI.index_select(0, self._token_of_place)
        x_SwI = x_PI.view(self._share.num_slots, self._share.width, -1)
        inner_SwK = torch.bmm(x_SwI, stack.a_SKI[self._slots].transpose(1, 2))
        added_PO = torch.bmm(inner_SwK, stack.b_SKO[self._slots]).flatten(0, 1)
        added_TO = added_PO if self._is_plain else added_PO.index_select(0, self._places_T)
        if self._has_all:
            out_NO.add_(added_TO)
        else:  # two copies, because index_add_ takes ten times as long on a CPU
            replace_rows(out_NO, self._tokens_T, out_NO.index_select(0, self._tokens_T).add_(added_TO))


class LoraBatch:
    """What all adapters of one step add to its tokens."""

    def __init__(self, shares: Iterable[tuple[Pool, Share]], num_tokens: int, device: torch.device) -> None:
        self._pools = [PoolBatch(pool, share, num_tokens, device) for pool, share in shares]

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor) -> None:
        """Add to `out_NO` what each token's own adapter makes of `x_NI`."""
        for pool in self._pools:
            pool.add(layer, site, x_NI, out_NO)
