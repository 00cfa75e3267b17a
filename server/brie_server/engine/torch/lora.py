"""An adapter's low-rank pairs in the engine's own layout. It knows modules and sites, and nothing of batches."""

import math
from collections.abc import Iterable, Mapping
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
    """Read each value once; raises InvalidAdapter for what `dtype` cannot hold, has no place here, or has no effect.

    All values lie in one piece of memory, which goes to the device in one copy and back to the system as one. It is
    filled by numpy: torch would start threads of its own, beside those of the engine's products.
    """
    places = _places(adapter, architecture)
    modules = [module for parts in places.values() for module in parts if module]
    values = np.empty(sum(_num_values(module) for module in modules), np.float32)
    with adapter.file.open("rb", buffering=0) as file:
        _fill(values, modules, file)
    limit = torch.finfo(dtype).max
    # an infinity here would reach the other adapters' tokens too: their masked zero times infinity is NaN
    if not (values.max() <= limit and values.min() >= -limit):  # NaN compares as neither
        raise InvalidAdapter(f"The adapter holds values that are no finite {dtype}.", code="adapter_not_finite")
    return DeviceAdapter(_pairs(places, torch.from_numpy(values).to(device, dtype)))


def _places(adapter: LoraAdapter, architecture: Architecture) -> dict[Place, list[LoraModule | None]]:
    modules = {module.name: module for module in adapter.modules}
    places = {}
    for layer, site in ((layer, site) for layer in range(architecture.num_layers) for site in Site):
        parts = [modules.pop(architecture.module(layer, part), None) for part in PARTS[site]]
        if any(parts):
            places[layer, site] = parts
    if modules:
        raise InvalidAdapter(f"{min(modules)} cannot be adapted by the torch engine.", code="adapter_unsupported")
    return places


def _num_values(module: LoraModule) -> int:
    return module.rank * (module.a.shape[1] + module.b.shape[0])


def _fill(values: npt.NDArray[np.float32], modules: Iterable[LoraModule], file: BinaryIO) -> None:
    """All of a module's a, then its b, transposed and scaled, module after module."""
    end, has_effect = 0, False
    for module in modules:
        start, middle, end = end, end + math.prod(module.a.shape), end + _num_values(module)
        values[start:middle] = module.a.read_float32(file).ravel()
        b_Or = module.b.read_float32(file)
        has_effect = has_effect or bool(b_Or.any())
        with np.errstate(over="ignore"):  # whoever called sees infinities
            np.multiply(b_Or.T, np.float32(module.scale), out=values[middle:end].reshape(module.rank, -1))
    if not has_effect:
        raise InvalidAdapter(WITHOUT_EFFECT, code="adapter_no_effect")


def _pairs(places: Mapping[Place, list[LoraModule | None]], values: Tensor) -> dict[Place, tuple[Pair | None, ...]]:
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
