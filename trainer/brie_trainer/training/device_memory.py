"""How many bytes a process may still take on a device. It knows no plan."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_UNIFIED_SHARE = 0.6
"""Of a Mac's memory, what a process can use before the machine swaps."""


def free_memory(device: str) -> int:
    """The least of what the device, the machine, the container and the process's own limits leave."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if device == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return max(min(_limits()), 0)


def _limits() -> Iterator[int]:
    yield _machine()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft - _virtual()
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        text = _read(_CGROUP / limit)
        if text.isdigit():
            yield int(text) - int(_read(_CGROUP / usage) or 0)


def _machine() -> int:
    found = [line.split()[1] for line in _read(Path("/proc/meminfo")).splitlines() if line.startswith("MemAvailable")]
    if found:
        return int(found[0]) * 1024
    return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _UNIFIED_SHARE)


def _virtual() -> int:
    """Bytes of address space that this process has taken."""
    pages = _read(Path("/proc/self/statm")).split()
    return int(pages[0]) * resource.getpagesize() if pages else 0


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
