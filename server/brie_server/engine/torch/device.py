"""Which device, number type and cache size "auto" means here. It knows the machine, not the model."""

import torch

from brie_core.errors import BadConfiguration
from brie_server.engine.torch.compiled.rows import rows_for
from brie_server.engine.torch.replays import CudaRecorder
from brie_server.engine.torch.scheduler import Limits
from brie_server.engine.torch.shapes import Shapes
from brie_server.engine.torch.target import Target

_CACHE_BYTES = 2 * 2**30
"""On a CPU, and at most on a Mac, where the GPU shares the machine's memory."""
_SHARE = {"cuda": 0.7, "mps": 0.5}
"""Of the memory that is free once the weights are loaded; the rest is for activations and for a cache that grows.

On a Mac the allocator keeps more for itself, and whoever crosses the recommended size swaps, or takes the Mac down.
"""
_IDLE_BYTES = 512 * 2**20
"""What torch's allocator may keep beyond what is in use while there is nothing to do."""


def choose_device(name: str) -> torch.device:
    """`name` is auto, cuda, mps or cpu; raises BadConfiguration for one that this machine lacks."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(each for each, here in present.items() if here)
    if not present[name]:
        raise BadConfiguration(f"BRIE_DEVICE={name}, but torch {torch.__version__} finds no {name} device here.")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`name` is auto or a type; auto is bfloat16 wherever the device multiplies it natively."""
    if name == "auto":
        return torch.bfloat16 if device.type != "cpu" or _cpu_has_bfloat16() else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}[name]


def cache_bytes(device: torch.device) -> int:
    """How much memory keys and values may take; ask after the weights are loaded."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * _SHARE["cuda"])
    if device.type == "mps":
        room = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return max(min(int(room * _SHARE["mps"]), _CACHE_BYTES), 0)
    return _CACHE_BYTES


def limits_for(device: torch.device) -> Limits:
    """On a CPU, where only what is written takes memory, the cache's rectangle begins as large as most ever need it.

    On CUDA asking for a step's operations takes most of its time, so that a step takes more tokens of prompts.
    """
    if device.type == "cpu":
        return Limits(reserved_rows=32, reserved_capacity=1024)
    return Limits(chunk_size=1024) if device.type == "cuda" else Limits()


def choose_target(device: torch.device, dtype: torch.dtype) -> Target:
    """The form that is fastest there; raises BadConfiguration for weights in int8 anywhere but on a CPU.

    On MPS with few shapes: its allocator and graphs keep something for each. On CUDA steps of single tokens are
    recorded: asking for their operations one by one takes several times as long as the operations.
    """
    if dtype is torch.int8:
        if device.type != "cpu":
            raise BadConfiguration(f"BRIE_DTYPE=int8 is for CPUs; on {device} leave it out, or set bfloat16.")
        return Target(device, torch.float32, rows=rows_for(device, torch.float32), has_int8_weights=True)
    record = CudaRecorder(device) if device.type == "cuda" else None
    return Target(device, dtype, Shapes(few=device.type == "mps"), rows_for(device, dtype), record=record)


def give_back(device: torch.device, most_kept: int = _IDLE_BYTES) -> None:
    """Return what torch's allocator keeps unused, if it is so much: the trainer beside us wants the same memory."""
    if device.type == "mps":
        if torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory() > most_kept:
            torch.mps.empty_cache()
    elif device.type == "cuda" and torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device) > most_kept:
        torch.cuda.empty_cache()


def _cpu_has_bfloat16() -> bool:
    features = torch.cpu.get_capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))  # the last is ARM's
