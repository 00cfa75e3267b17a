"""Which device the suite in this folder runs on, and how much of its memory is taken. It knows no engine.

As a program it names the device, or says that there is none and fails: `make test-device` begins with it.
"""

import gc
import os
import sys

import psutil
import torch

from brie_core.errors import BadConfiguration
from brie_server.engine.torch.device import choose_device

NONE = "no CUDA and no MPS device here; BRIE_DEVICE=cpu runs this suite on the CPU"


def find_device() -> torch.device | None:
    """What BRIE_DEVICE says, else CUDA, else MPS, else nothing; raises BadConfiguration for one that is not here."""
    if name := os.environ.get("BRIE_DEVICE"):
        return choose_device(name)
    device = choose_device("auto")
    return None if device.type == "cpu" else device


def allocated_bytes(device: torch.device) -> int:
    """What live tensors take on the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.memory_allocated(device)
    if device.type == "mps":
        torch.mps.synchronize()
        return torch.mps.current_allocated_memory()
    return sum(each.nbytes for each in gc.get_objects() if type(each) is torch.Tensor and each.layout == torch.strided)


def taken_bytes(device: torch.device) -> int:
    """What the process holds of the device's memory, used or not."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    try:
        found = find_device()
    except BadConfiguration as error:
        sys.exit(error.message)
    sys.exit(NONE) if found is None else print(f"device: {found}")
