"""Running out of memory: how it is told apart, and what is given back behind it. It knows no plan."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from brie_core.errors import BrieError

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "could not create a memory")
_T = TypeVar("_T")


class OutOfMemory(BrieError):
    """One example alone does not fit."""

    default_code = "out_of_memory"


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a type for it, the allocators of CPU and MPS only words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def within_memory(attempt: Callable[[], _T]) -> _T | None:
    """What `attempt` returns, or None if memory ran out; the error goes, for its traceback holds every tensor."""
    try:
        return attempt()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def give_back(device: torch.device) -> None:
    """Return cached blocks to the device: CUDA and MPS keep them in sizes that the next shape cannot use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
