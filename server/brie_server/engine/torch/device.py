"""Which device, number type and cache size "auto" means here. It knows the machine, not the model."""

import torch

from brie_core.errors import BadConfiguration

_CACHE_BYTES = 2 * 2**30
"""On a CPU, and on a Mac where the GPU shares its memory."""
_CUDA_SHARE = 0.7
"""Of the memory that is free once the weights are loaded; the rest is for activations and for a cache that grows."""


def choose_device(name: str) -> torch.device:
    """`name` is auto, cuda, mps or cpu; raises BadConfiguration for one that this machine lacks."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(each for each, here in present.items() if here)
    if not present[name]:
        raise BadConfiguration(f"BRIE_DEVICE={name}, but torch {torch.__version__} finds no {name} device here.")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`name` is auto, float32, bfloat16 or float16; auto is bfloat16 wherever the device multiplies it natively."""
    if name == "auto":
        return torch.bfloat16 if device.type != "cpu" or _cpu_has_bfloat16() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def cache_bytes(device: torch.device) -> int:
    """How much memory keys and values may take; ask after the weights are loaded."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _CUDA_SHARE)
    return _CACHE_BYTES


def _cpu_has_bfloat16() -> bool:
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's
