"""An adapter's low-rank pairs in the engine's own layout. It knows modules and sites, and nothing of batches."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from brie_core.errors import InvalidAdapter
from brie_core.weights.lora import LoraAdapter, LoraModule
from brie_core.weights.safetensors import TensorInfo
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
    """Read the adapter's values; raises InvalidAdapter for one that `dtype` cannot hold or that has no place here."""
    modules = {module.name: module for module in adapter.modules}
    pairs = {}
    for layer, site in ((layer, site) for layer in range(architecture.num_layers) for site in Site):
        parts = [modules.pop(architecture.module(layer, part), None) for part in PARTS[site]]
        if any(parts):
            pairs[layer, site] = tuple(_pair(part, device, dtype) if part else None for part in parts)
    if modules:
        raise InvalidAdapter(f"{min(modules)} cannot be adapted by the torch engine.", code="adapter_unsupported")
    return DeviceAdapter(pairs)


def _pair(module: LoraModule, device: torch.device, dtype: torch.dtype) -> Pair:
    a_rI, b_rO = _float32(module.a), (_float32(module.b).T * module.scale).contiguous()
    pair = Pair(a_rI.to(device, dtype), b_rO.to(device, dtype))
    # an infinity here would reach the other adapters' tokens too: their masked zero times infinity is NaN
    if not (pair.a_rI.isfinite().all() and pair.b_rO.isfinite().all()):
        raise InvalidAdapter(f"The adapter's values are too large for {dtype}.", code="adapter_not_finite")
    return pair


def _float32(info: TensorInfo) -> Tensor:
    return torch.from_numpy(info.read_float32())
