"""Zeros that take no memory before they are written to, where the device has such. It knows shapes, not what for."""

import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor


def zeros(shape: Sequence[int], device: torch.device, dtype: torch.dtype) -> Tensor:
    """On a CPU fresh pages of the system's, which become memory one by one; elsewhere torch's own zeros."""
    num_bytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or not num_bytes:
        return torch.zeros(tuple(shape), device=device, dtype=dtype)
    return torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=dtype).view(tuple(shape))
