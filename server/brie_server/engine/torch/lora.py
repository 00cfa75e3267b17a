"""Adapters on the device, and many of them in one batch. It knows low-rank pairs, and nothing of folders or requests.

For each site the A of all adapters in a step are stacked, and so are their B. A token multiplies with all of A, keeps
only its own adapter's columns, and multiplies with all of B. Nothing is ever merged, and there is no active adapter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_core.errors import InvalidAdapter
from brie_core.weights.lora import LoraAdapter, LoraModule
from brie_core.weights.safetensors import TensorInfo
from brie_server.engine.torch.architecture import PARTS, Architecture, Site

_Place = tuple[int, Site]


@dataclass(frozen=True, slots=True)
class Pair:
    """What an adapter adds at one site: (x @ a_KI.T) @ b_KO, the scale already in b_KO.

    Where a site has several parts, their ranks are stacked along K and b_KO is block-diagonal: parts of different rank,
    and parts that the adapter leaves alone, need no further thought.
    """

    a_KI: Tensor
    b_KO: Tensor

    @property
    def rank(self) -> int:
        """K: the ranks of its parts together."""
        return self.a_KI.shape[0]


@dataclass(frozen=True, slots=True)
class DeviceAdapter:
    """One adapter, ready for use."""

    pairs: Mapping[_Place, Pair]

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        return sum(pair.a_KI.nbytes + pair.b_KO.nbytes for pair in self.pairs.values())


def put_on_device(
    adapter: LoraAdapter, architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> DeviceAdapter:
    """Read the adapter's values; raises InvalidAdapter for one that `dtype` cannot hold or that has no place here."""
    modules = {module.name: module for module in adapter.modules}
    pairs = {}
    for place in ((layer, site) for layer in range(architecture.num_layers) for site in Site):
        if parts := _take_parts(modules, architecture, *place):
            pairs[place] = _pair(parts, device, dtype)
    if modules:
        raise InvalidAdapter(f"{min(modules)} cannot be adapted by the torch engine.", code="adapter_unsupported")
    return DeviceAdapter(pairs)


_Part = tuple[int, LoraModule | None]
"""How many outputs a part of a site has, and what the adapter adds there."""


def _take_parts(modules: dict[str, LoraModule], architecture: Architecture, layer: int, site: Site) -> list[_Part]:
    parts = [(architecture.shape(part)[0], modules.pop(architecture.module(layer, part), None)) for part in PARTS[site]]
    return parts if any(module for _, module in parts) else []


def _pair(parts: list[_Part], device: torch.device, dtype: torch.dtype) -> Pair:
    a_KI = torch.cat([_float32(module.a) for _, module in parts if module])
    b_KO = torch.zeros(a_KI.shape[0], sum(num_outputs for num_outputs, _ in parts))
    rank = output = 0
    for num_outputs, module in parts:
        if module:
            block = b_KO[rank : rank + module.rank, output : output + num_outputs]
            block.copy_(_float32(module.b).T * module.scale)
            rank += module.rank
        output += num_outputs
    pair = Pair(a_KI.to(device, dtype), b_KO.to(device, dtype))
    # an infinity here would reach the other adapters' tokens too: their masked zero times infinity is NaN
    if not (pair.a_KI.isfinite().all() and pair.b_KO.isfinite().all()):
        raise InvalidAdapter(f"The adapter's values are too large for {dtype}.", code="adapter_not_finite")
    return pair


def _float32(info: TensorInfo) -> Tensor:
    return torch.from_numpy(info.read_float32())


@dataclass(frozen=True, slots=True)
class _Stack:
    """The pairs of several adapters, one below the other."""

    pairs: Mapping[_Place, tuple[Pair, int]]
    """Each with the index of its layout."""
    owner_of_column: tuple[Tensor, ...]
    """Per layout, which adapter each of the K columns belongs to; sites with equal ranks share one layout."""


def _stack(adapters: Sequence[DeviceAdapter]) -> _Stack:
    layouts: dict[tuple[int, ...], int] = {}
    pairs = {}
    for place in {place: None for adapter in adapters for place in adapter.pairs}:
        here = [adapter.pairs.get(place) for adapter in adapters]
        layout = layouts.setdefault(tuple(pair.rank if pair else 0 for pair in here), len(layouts))
        pairs[place] = (_joined([pair for pair in here if pair]), layout)
    device = next(iter(pairs.values()))[0].a_KI.device
    owners = ([owner for owner, rank in enumerate(ranks) for _ in range(rank)] for ranks in layouts)
    return _Stack(pairs, tuple(torch.tensor(owner_of_column, device=device) for owner_of_column in owners))


def _joined(pairs: list[Pair]) -> Pair:
    if len(pairs) == 1:
        return pairs[0]
    return Pair(torch.cat([pair.a_KI for pair in pairs]), torch.cat([pair.b_KO for pair in pairs]))


class LoraBatch:
    """What the adapters of one step add to its tokens."""

    def __init__(self, stack: _Stack, owner_N: Tensor) -> None:
        self._pairs = stack.pairs
        self._foreign_NK = [owner_N[:, None] != owner_K for owner_K in stack.owner_of_column]

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor) -> None:
        """Add to `out_NO` what each token's own adapter makes of `x_NI`."""
        if (found := self._pairs.get((layer, site))) is None:
            return
        pair, layout = found
        inner_NK = (x_NI @ pair.a_KI.T).masked_fill_(self._foreign_NK[layout], 0)
        out_NO.addmm_(inner_NK, pair.b_KO)


class Adapters:
    """The adapters that are loaded, by digest."""

    def __init__(self) -> None:
        self._loaded: dict[str, DeviceAdapter] = {}
        self.release()

    def get(self, digest: str) -> DeviceAdapter | None:
        """A loaded adapter."""
        return self._loaded.get(digest)

    def load(self, digest: str, adapter: DeviceAdapter) -> DeviceAdapter:
        """Take an adapter in, unless it is there already; returns the one that counts."""
        return self._loaded.setdefault(digest, adapter)

    def unload(self, digest: str) -> None:
        """Forget an adapter and free its memory; an unknown one is no error."""
        self._loaded.pop(digest, None)
        if digest in self._stacked:
            self.release()

    def release(self) -> None:
        """Free what was stacked for the last step."""
        self._stacked: tuple[str, ...] = ()
        self._stack: _Stack | None = None

    def batch(self, digests: Sequence[str | None], device: torch.device) -> LoraBatch | None:
        """The adapters for a step whose tokens have these digests; None when all of them are the base model's.

        The stack is kept as long as the same adapters are in use.
        """
        active = tuple(sorted({digest for digest in digests if digest is not None}))
        if not active:
            return None
        if self._stack is None or active != self._stacked:
            self._stack = _stack([self._loaded[digest] for digest in active])
            self._stacked = active
        owners = [-1 if digest is None else active.index(digest) for digest in digests]
        return LoraBatch(self._stack, torch.tensor(owners, device=device))
