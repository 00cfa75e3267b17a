"""How many bytes a process may still take on a device. It knows no plan."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")
"""Files of a control group, and the entry of its memory.stat that is given back when memory is short."""
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
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torch's launcher: this machine's processes of one run
    yield _machine() // sharing
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft - _virtual()
    for left in container_limits(_CGROUP, _read(Path("/proc/self/cgroup"))):
        yield left // sharing


def container_limits(root: Path, membership: str) -> Iterator[int]:
    """What each control group leaves that has a limit: the process's own, as /proc/self/cgroup tells it, and all above.

    Cached pages of files count as used there, but the kernel drops them before it refuses memory.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield from _limits_up_to(root / "memory", path, _V1)
        elif not controllers:
            yield from _limits_up_to(root, path, _V2)


def _limits_up_to(root: Path, path: str, names: tuple[str, str, str]) -> Iterator[int]:
    limit, usage, droppable = names
    own = root / path.strip("/")
    for folder in (own, *own.parents):
        if (text := _read(folder / limit)).isdigit():
            stat = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines())
            yield int(text) - int(_read(folder / usage) or 0) + int(stat.get(droppable, 0))
        if folder == root:
            return


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
