"""Adapters as the compiled products read them: each by itself, in one stretch of memory. It knows digests and sites.

Nothing is stacked for a step: the compiled function takes a table of addresses, reads each adapter once for all of its
tokens, and ranks may differ from adapter to adapter.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
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
from brie_server.engine.torch.lora import DeviceAdapter, Pair, put_on_device

CPU = torch.device("cpu")
_GROUP = np.dtype(compiled.Group)
_SITES = tuple(Site)
_Addresses = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class PackedAdapter:
    """One adapter's values, and where those of each layer and site begin; an address of zero means that it has none."""

    rank: int
    """The largest of its pairs' ranks; smaller ones are filled up with zeros."""
    values: Tensor
    a_LS: _Addresses
    b_LS: _Addresses

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        return self.values.nbytes


def can_pack(architecture: Architecture) -> bool:
    """Whether all outputs come in whole lanes."""
    return all(architecture.shape(part)[0] % LANES == 0 for parts in PARTS.values() for part in parts)


def pack(adapter: DeviceAdapter, architecture: Architecture) -> PackedAdapter:
    """Lay an adapter out: for each site its a, the parts' ranks below one another, then the b of each part."""
    rank = adapter.rank
    sizes = {site: _sizes(site, rank, architecture) for site in Site}
    values = torch.zeros(sum(sum(sizes[site]) for _, site in adapter.pairs), dtype=torch.float32)
    a_LS = np.zeros((architecture.num_layers, len(_SITES)), np.uint64)
    b_LS = np.zeros_like(a_LS)
    start = 0
    for (layer, site), pairs in adapter.pairs.items():
        a, b = torch.split(values[start : start + sum(sizes[site])], sizes[site])
        a_LS[layer, _SITES.index(site)], b_LS[layer, _SITES.index(site)] = a.data_ptr(), b.data_ptr()
        _fill(a, b, pairs, [architecture.shape(part) for part in PARTS[site]], rank)
        start += sum(sizes[site])
    return PackedAdapter(rank, values, a_LS, b_LS)


def _sizes(site: Site, rank: int, architecture: Architecture) -> list[int]:
    shapes = [architecture.shape(part) for part in PARTS[site]]
    return [rank * len(shapes) * shapes[0][1], rank * sum(num_outputs for num_outputs, _ in shapes)]


def _fill(a: Tensor, b: Tensor, pairs: Sequence[Pair | None], shapes: Sequence[tuple[int, int]], rank: int) -> None:
    """b of a part is [outputs / LANES, rank, LANES]."""
    a_PrI = a.view(len(shapes), rank, -1)
    for pair, a_rI, part in zip(pairs, a_PrI, torch.split(b, [rank * out for out, _ in shapes]), strict=True):
        if pair:
            own = pair.a_rI.shape[0]
            a_rI[:own] = pair.a_rI
            part.view(-1, rank, LANES)[:, :own] = pair.b_rO.view(own, -1, LANES).transpose(0, 1)


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
        return pack(put_on_device(adapter, self._architecture, CPU, torch.float32), self._architecture)

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
