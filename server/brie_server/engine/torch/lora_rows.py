"""Adapters as the compiled products read them: each by itself, in one stretch of memory. It knows digests and sites.

Nothing is stacked for a step: the compiled function takes a table of addresses, reads each adapter once for all of its
tokens, and ranks may differ from adapter to adapter.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from brie_core.weights.lora import LoraAdapter
from brie_server.engine.torch.architecture import PARTS, Architecture, Site
from brie_server.engine.torch.compiled import rows as compiled
from brie_server.engine.torch.compiled.rows import LANES, Rows
from brie_server.engine.torch.lora import Factors, Place, places_of, read_factors

_GROUP = np.dtype(compiled.Group)
_SITES = tuple(Site)
_Addresses = npt.NDArray[np.uint64]
_Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """One adapter's values, and where those of each layer and site begin; an address of zero means that it has none."""

    rank: int
    """The largest of its pairs' ranks; smaller ones are filled up with zeros."""
    values: _Values
    a_LS: _Addresses
    b_LS: _Addresses

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        return self.values.nbytes


def can_pack(architecture: Architecture) -> bool:
    """Whether all outputs come in whole lanes."""
    return all(architecture.shape(part)[0] % LANES == 0 for parts in PARTS.values() for part in parts)


def read_packed(adapter: LoraAdapter, architecture: Architecture) -> PackedAdapter:
    """Read each value once, to where it stays; raises InvalidAdapter."""
    places = places_of(adapter, architecture)
    rank = max(module.rank for module in adapter.modules)
    factors = read_factors(adapter, places, float(np.finfo(np.float32).max))
    return pack(rank, places.keys(), factors, architecture)


def pack(
    rank: int,
    places: Collection[Place],
    factors: Iterable[tuple[Place, Sequence[Factors | None]]],
    architecture: Architecture,
) -> PackedAdapter:
    """Lay an adapter out: for each site its a, the parts' ranks below one another, then the b of each part.

    `rank` is the largest, and `factors` are those of `places`. Done in numpy: torch would start threads of its own,
    beside those of the engine's products.
    """
    shapes = {site: [architecture.shape(part) for part in PARTS[site]] for site in Site}
    sizes = {site: _sizes(shapes[site], rank) for site in Site}
    values = np.zeros(sum(sum(sizes[site]) for _, site in places), np.float32)
    a_LS = np.zeros((architecture.num_layers, len(_SITES)), np.uint64)
    b_LS = np.zeros_like(a_LS)
    start = 0
    for (layer, site), parts in factors:
        middle, end = start + sizes[site][0], start + sum(sizes[site])
        a_LS[layer, _SITES.index(site)] = values.ctypes.data + start * values.itemsize
        b_LS[layer, _SITES.index(site)] = values.ctypes.data + middle * values.itemsize
        _fill(values[start:middle], values[middle:end], parts, shapes[site], rank)
        start = end
    return PackedAdapter(rank, values, a_LS, b_LS)


def _sizes(shapes: Sequence[tuple[int, int]], rank: int) -> tuple[int, int]:
    return rank * len(shapes) * shapes[0][1], rank * sum(num_outputs for num_outputs, _ in shapes)


def _fill(
    a: _Values, b: _Values, parts: Sequence[Factors | None], shapes: Sequence[tuple[int, int]], rank: int
) -> None:
    """b of a part is [outputs / LANES, rank, LANES]."""
    a_PrI, start = a.reshape(len(shapes), rank, -1), 0
    for a_rI, factors, (num_outputs, _) in zip(a_PrI, parts, shapes, strict=True):
        end = start + rank * num_outputs
        if factors:
            own = factors[0].shape[0]
            a_rI[:own] = factors[0]
            b[start:end].reshape(-1, rank, LANES)[:, :own] = factors[1].reshape(-1, LANES, own).transpose(0, 2, 1)
        start = end


class PackedAdapters:
    """The adapters that are loaded; used by the engine's thread alone."""

    def __init__(self, architecture: Architecture, rows: Rows) -> None:
        self._architecture, self._rows = architecture, rows
        self._loaded: dict[str, PackedAdapter] = {}
        self._latest: PackedBatch | None = None

    @property
    def num_bytes(self) -> int:
        """Memory that adapters hold."""
        return sum(adapter.num_bytes for adapter in self._loaded.values())

    def prepare(self, adapter: LoraAdapter) -> PackedAdapter:
        """What `load` takes; may be called on any thread. Raises InvalidAdapter."""
        return read_packed(adapter, self._architecture)

    def get(self, digest: str) -> PackedAdapter | None:
        """A loaded adapter."""
        return self._loaded.get(digest)

    def load(self, digest: str, adapter: PackedAdapter) -> PackedAdapter:
        """Take an adapter in, unless it is there already; returns the one that counts."""
        return self._loaded.setdefault(digest, adapter)

    def unload(self, digest: str) -> None:
        """Forget an adapter and free its memory; an unknown one is no error."""
        self._loaded.pop(digest, None)
        self._latest = None  # it holds addresses

    def batch(self, tokens: Sequence[tuple[str | None, int]]) -> "PackedBatch | None":
        """For a step with runs of so many tokens of these digests; None when all of them are the base model's."""
        key = tuple(tokens)
        if self._latest is None or self._latest.key != key:
            used = {digest: self._loaded[digest] for digest, _ in tokens if digest is not None}
            self._latest = PackedBatch(key, used, self._architecture, self._rows) if used else None
        return self._latest


class PackedBatch:
    """What all adapters of one step add to its tokens; the next step of the same tokens uses it again."""

    def __init__(
        self,
        key: tuple[tuple[str | None, int], ...],
        used: Mapping[str, PackedAdapter],
        architecture: Architecture,
        rows: Rows,
    ) -> None:
        self.key, self._rows, self._used = key, rows, used
        tokens = _tokens_of(key)
        self._num_tokens = sum(count for _, count in key)
        self._tokens_T = torch.tensor([token for digest in used for token in tokens[digest]], dtype=torch.int64)
        self._groups_LSG = _groups(used, {digest: len(tokens[digest]) for digest in used})
        shapes = {site: [architecture.shape(part) for part in PARTS[site]] for site in Site}
        self._outputs = {
            site: torch.tensor([out for out, _ in each], dtype=torch.int64) for site, each in shapes.items()
        }
        most_rank, num_tokens = max(each.rank for each in used.values()), len(self._tokens_T)
        self._x_TI = torch.empty(num_tokens, max(each[0][1] for each in shapes.values()), dtype=torch.float32)
        most_parts = max(len(each) for each in shapes.values())
        self._inner_TK = torch.empty(num_tokens, most_rank * most_parts, dtype=torch.float32)
        self._sites = {site: self._site(site, each, most_rank) for site, each in shapes.items()}

    def add(self, layer: int, site: Site, x_NI: Tensor, out_NO: Tensor) -> None:
        """Add to `out_NO` what each token's own adapter makes of `x_NI`."""
        groups = self._groups_LSG[layer, _SITES.index(site)].ctypes.data
        self._rows.lora(x_NI, out_NO, self._num_tokens, groups, self._sites[site])

    def _site(self, site: Site, shapes: Sequence[tuple[int, int]], most_rank: int) -> compiled.Site:
        tensors = self._tokens_T, self._outputs[site], self._x_TI, self._inner_TK
        return compiled.Site(
            shapes[0][1],
            sum(num_outputs for num_outputs, _ in shapes),
            len(shapes),
            most_rank * len(shapes),
            len(self._used),
            *(tensor.data_ptr() for tensor in tensors),
        )


def _tokens_of(key: tuple[tuple[str | None, int], ...]) -> Mapping[str | None, list[int]]:
    tokens: dict[str | None, list[int]] = defaultdict(list)
    start = 0
    for digest, count in key:
        tokens[digest].extend(range(start, start + count))
        start += count
    return tokens


def _groups(used: Mapping[str, PackedAdapter], counts: Mapping[str, int]) -> npt.NDArray[Any]:
    """The table of addresses, [layers, sites, adapters]."""
    adapters = list(used.values())
    groups_LSG = np.zeros((*adapters[0].a_LS.shape, len(adapters)), _GROUP)
    groups_LSG["a"] = np.stack([each.a_LS for each in adapters], -1)
    groups_LSG["b"] = np.stack([each.b_LS for each in adapters], -1)
    groups_LSG["rank"] = [each.rank for each in adapters]
    groups_LSG["count"] = numbers = [counts[digest] for digest in used]
    groups_LSG["first"] = np.cumsum(numbers) - numbers
    return groups_LSG
