"""Adapters of one rank side by side, and their part in a step. It knows slots, and nothing of names or files.

A pool's tensors hold one adapter in each slot. A step multiplies each token with the pair in its own adapter's slot, as
one batched product over slots: nothing is merged, nothing is masked, and there is no active adapter.
"""

from collections.abc import Hashable, Sequence
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
    """One site's pairs in all slots: the parts' ranks stacked to K, and an own b for each part."""

    a_SKI: Tensor
    b_SrO: tuple[Tensor, ...]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return (self.a_SKI, *self.b_SrO)


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
            pairs = adapter.pairs.get(place) or (None,) * len(stack.b_SrO)
            for a_rI, b_SrO, pair in zip(torch.split(stack.a_SKI[slot], self.rank), stack.b_SrO, pairs, strict=True):
                _put(pair, a_rI, b_SrO[slot])

    def stack(self, layer: int, site: Site) -> _Stack | None:
        """The pairs of a site, None where no adapter of this pool has any."""
        return self._stacks.get((layer, site))

    def _empty(self, place: Place) -> _Stack:
        shapes = [self._architecture.shape(part) for part in PARTS[place[1]]]
        return _Stack(
            self._zeros(self._num_reserved, len(shapes) * self.rank, shapes[0][1]),
            tuple(self._zeros(self._num_reserved, self.rank, num_outputs) for num_outputs, _ in shapes),
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


@dataclass(frozen=True, slots=True)
class Part:
    """One pool's share in a step."""

    pool: Pool
    share: Share

    @property
    def numbers(self) -> list[int]:
        """Which token stands at each place of the padded product, then its tokens, then their places."""
        token_of_place = [0] * (self.share.num_slots * self.share.width)
        for token, place in zip(self.share.tokens, self.share.places, strict=True):
            token_of_place[place] = token
        return [*token_of_place, *self.share.tokens, *self.share.places]

    def is_plain(self, num_tokens: int) -> bool:
        """One adapter, or several in order with as many tokens each: every token is its own place."""
        share, all_tokens = self.share, tuple(range(num_tokens))
        return share.num_slots * share.width == num_tokens and share.places == all_tokens == share.tokens

    def has_all(self, num_tokens: int) -> bool:
        """Whether the padded product has every token of the step, in order."""
        return self.share.tokens == tuple(range(num_tokens))

    def layout(self, num_tokens: int) -> Hashable:
        """Everything but the numbers, and which tensors the pool has."""
        share = self.share
        sizes = share.first, share.num_slots, share.width, len(share.tokens), share.long_runs
        return self.pool.tensors, sizes, self.is_plain(num_tokens), self.has_all(num_tokens)


class PoolBatch:
    """What one pool's adapters add to the tokens of one step."""

    def __init__(self, part: Part, num_tokens: int, numbers_X: Tensor) -> None:
        """`numbers_X` are the part's own."""
        self._pool, self._share = part.pool, part.share
        self._slots = slice(part.share.first, part.share.first + part.share.num_slots)
        self._is_plain, self._has_all = part.is_plain(num_tokens), part.has_all(num_tokens)
        sizes = [part.share.num_slots * part.share.width, len(part.share.tokens), len(part.share.places)]
        self._token_of_place, self._tokens_T, self._places_T = torch.split(numbers_X, sizes)

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor) -> None:
        """Add to `out_NO` what each token's own adapter makes of `x_NI`."""
        if (stack := self._pool.stack(layer, site)) is None:
            return
        x_NI = x_NI.to(stack.a_SKI.dtype)
        if self._share.num_slots:
            self._add_padded(stack, x_NI, out_NO)
        for run in self._share.long_runs:
            inner_nK = x_NI[run.start : run.end] @ stack.a_SKI[run.slot].T
            inners_nr = torch.split(inner_nK, self._pool.rank, dim=1)
            added_no = [inner_nr @ b_SrO[run.slot] for inner_nr, b_SrO in zip(inners_nr, stack.b_SrO, strict=True)]
            out_NO[run.start : run.end].add_(_joined(added_no))

    def _add_padded(self, stack: _Stack, x_NI: Tensor, out_NO: Tensor) -> None:
        x_PI = x_NI if self._is_plain else x_NI.index_select(0, self._token_of_place)
        x_SwI = x_PI.view(self._share.num_slots, self._share.width, -1)
        inner_SwK = torch.bmm(x_SwI, stack.a_SKI[self._slots].transpose(1, 2))
        inners_Swr = torch.split(inner_SwK, self._pool.rank, dim=2)
        added_Swo = [torch.bmm(inner, b_SrO[self._slots]) for inner, b_SrO in zip(inners_Swr, stack.b_SrO, strict=True)]
        added_PO = _joined(added_Swo).flatten(0, 1)
        added_TO = added_PO if self._is_plain else added_PO.index_select(0, self._places_T)
        if self._has_all:
            out_NO.add_(added_TO)
        else:  # two copies, because index_add_ takes ten times as long on a CPU
            replace_rows(out_NO, self._tokens_T, out_NO.index_select(0, self._tokens_T).add_(added_TO))


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


class LoraBatch:
    """What all adapters of one step add to its tokens."""

    def __init__(self, parts: Sequence[Part], num_tokens: int, numbers_X: Tensor) -> None:
        """`numbers_X` are those of the parts, one after the other."""
        of_parts = torch.split(numbers_X, [len(part.numbers) for part in parts])
        self._pools = [PoolBatch(part, num_tokens, own) for part, own in zip(parts, of_parts, strict=True)]

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor) -> None:
        """Add to `out_NO` what each token's own adapter makes of `x_NI`."""
        for pool in self._pools:
            pool.add(layer, site, x_NI, out_NO)
