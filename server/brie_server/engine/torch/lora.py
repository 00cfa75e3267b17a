"""An adapter's low-rank pairs in the engine's own layout. It knows modules and sites, and nothing of batches."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from brie_core.errors import InvalidAdapter
from brie_core.weights.lora import WITHOUT_EFFECT, LoraAdapter, LoraModule
from brie_server.engine.torch.architecture import PARTS, Architecture, Site

Place = tuple[int, Site]
"""A layer's index, and which of its products."""
Factors = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""A module's a_rI, and its b_Or with the scale in it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What an adapter adds to one part of a site: (x @ a_rI.T) @ b_rO, the scale already in b_rO."""

    a_rI: Tensor
    b_rO: Tensor


@dataclass(frozen=True, slots=True)
class DeviceAdapter:
    """One adapter, ready for use."""

    pairs: Mapping[Place, tuple[Pair | None, ...]]
    """For each part of a site, in the order of PARTS; None where the adapter leaves the part alone."""

    @property
    def rank(self) -> int:
        """The largest of its pairs' ranks."""
        return max(pair.a_rI.shape[0] for pairs in self.pairs.values() for pair in pairs if pair)

    @property
    def num_bytes(self) -> int:
        """Memory it holds."""
        pairs = (pair for pairs in self.pairs.values() for pair in pairs if pair)
        return sum(pair.a_rI.nbytes + pair.b_rO.nbytes for pair in pairs)


def adapter_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """float32 on a CPU, whatever the model's: its small batched products are much the faster (docs/log.md)."""
    return torch.float32 if device.type == "cpu" else dtype


def put_on_device(
    adapter: LoraAdapter, architecture: Architecture, device: torch.device, dtype: torch.dtype
) -> DeviceAdapter:
    """All values in one piece of memory, which goes to the device in one copy and back to the system as one.

    Raises InvalidAdapter for what `dtype` cannot hold, has no place here, or has no effect.
    """
    places = places_of(adapter, architecture)
    values = np.empty(sum(_num_values(each) for parts in places.values() for each in parts if each), np.float32)
    start = 0
    for _, parts in read_factors(adapter, places, torch.finfo(dtype).max):
        for factors in parts:
            if factors:
                start = _append(values, start, factors)
    return DeviceAdapter(_pairs(places, torch.from_numpy(values).to(device, dtype)))


def places_of(adapter: LoraAdapter, architecture: Architecture) -> dict[Place, list[LoraModule | None]]:
    """The adapter's modules by place and part; raises InvalidAdapter for one that has no place in this engine."""
    modules = {module.name: module for module in adapter.modules}
    places = {}
    for layer, site in ((layer, site) for layer in range(architecture.num_layers) for site in Site):
        parts = [modules.pop(architecture.module(layer, part), None) for part in PARTS[site]]
        if any(parts):
            places[layer, site] = parts
    if modules:
        raise InvalidAdapter(f"{min(modules)} cannot be adapted by the torch engine.", code="adapter_unsupported")
    return places


def read_factors(
    adapter: LoraAdapter, places: Mapping[Place, Sequence[LoraModule | None]], limit: float
) -> Iterator[tuple[Place, Sequence[Factors | None]]]:
    """Each place's factors, read from the file when they are asked for, in the order of `places`.

    Raises InvalidAdapter for a value above `limit` or not finite, and at the end if no b had any effect.
    """
    has_effect = False
    with adapter.file.open("rb", buffering=0) as file:
        for place, modules in places.items():
            parts = [_read(module, file, limit) if module else None for module in modules]
            has_effect = has_effect or any(factors and factors[1].any() for factors in parts)
            yield place, parts
    if not has_effect:
        raise InvalidAdapter(WITHOUT_EFFECT, code="adapter_no_effect")


def _read(module: LoraModule, file: BinaryIO, limit: float) -> Factors:
    a_rI, b_Or = module.a.read_float32(file), module.b.read_float32(file)
    with np.errstate(over="ignore"):
        b_Or *= np.float32(module.scale)
    for values in (a_rI, b_Or):
        # an infinity here would reach the other adapters' tokens too: their masked zero times infinity is NaN
        if not (values.max() <= limit and values.min() >= -limit):  # NaN compares as neither
            raise InvalidAdapter(f"{module.name} is adapted by numbers that are not finite.", code="adapter_not_finite")
    return a_rI, b_Or


def _num_values(module: LoraModule) -> int:
    return module.rank * (module.a.shape[1] + module.b.shape[0])


def _append(values: npt.NDArray[np.float32], start: int, factors: Factors) -> int:
    """All of a, then b transposed."""
    a_rI, b_Or = factors
    middle, end = start + a_rI.size, start + a_rI.size + b_Or.size
    values[start:middle] = a_rI.ravel()
    values[middle:end].reshape(b_Or.shape[::-1])[:] = b_Or.T
    return end


def _pairs(places: Mapping[Place, Sequence[LoraModule | None]], values: Tensor) -> dict[Place, tuple[Pair | None, ...]]:
    """Views of what was appended."""
    end, pairs = 0, {}
    for place, modules in places.items():
        parts: list[Pair | None] = []
        for module in modules:
            if module is None:
                parts.append(None)
                continue
            start, middle, end = end, end + math.prod(module.a.shape), end + _num_values(module)
            parts.append(Pair(values[start:middle].view(module.rank, -1), values[middle:end].view(module.rank, -1)))
        pairs[place] = tuple(parts)
    return pairs
