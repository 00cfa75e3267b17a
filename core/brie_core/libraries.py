"""What third-party libraries must be told by environment before they are imported. It imports none of them."""

import sys
from collections.abc import Mapping, MutableMapping

from brie_core.errors import BadConfiguration

_KEEP_BYTES = str(2**34)
_SPINS = "2000"
_LARGE_PAGES = "glibc.malloc.hugetlb=1"


def prepare_libraries(environment: MutableMapping[str, str], platform: str = sys.platform) -> None:
    """Set what a Brie process needs in its environment; call first thing in a process's main.

    Telemetry is off. On macOS downloads go without Xet, which stalls there. Torch's OpenMP threads sleep soon while
    they wait: API and training share the cores, and two pools that spin as long as they like slow each other a
    hundredfold. A few microseconds of spinning, which only GNU's OpenMP can be told, cost little beside another process
    and save a third of a decode step when alone (docs/log.md, 2026-11-24).
    """
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    environment["DO_NOT_TRACK"] = "1"
    environment.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "OMP_WAIT_POLICY" not in environment:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
    if platform == "darwin":
        environment["HF_HUB_DISABLE_XET"] = "1"


def show_only(device: str, environment: MutableMapping[str, str]) -> None:
    """Let this process, and those that it starts, see no other GPU than `device`; raises BadConfiguration.

    Of several, `cuda:1` is the second of those that are shown already. To call before CUDA is first asked.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda" or not number:
        return
    shown = [each for each in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if each]
    if shown and int(number) >= len(shown):
        raise BadConfiguration(f"BRIE_DEVICE={device}, but CUDA_VISIBLE_DEVICES shows only {','.join(shown)}.")
    environment["CUDA_DEVICE_ORDER"] = environment.get("CUDA_DEVICE_ORDER") or "PCI_BUS_ID"
    environment["CUDA_VISIBLE_DEVICES"] = shown[int(number)] if shown else str(int(number))


def environment_for_child(environment: Mapping[str, str]) -> dict[str, str]:
    """What to start a process that computes with: all of the above, and what only counts from a process's beginning.

    glibc keeps freed memory instead of handing it back after every tensor; training is a third faster for it. It asks
    for large pages, which weights read end to end are a sixth faster from (docs/log.md, 2026-11-25).
    """
    malloc = {"MALLOC_MMAP_THRESHOLD_": _KEEP_BYTES, "MALLOC_TRIM_THRESHOLD_": _KEEP_BYTES}
    child = {**malloc, "GLIBC_TUNABLES": _LARGE_PAGES, **environment}
    prepare_libraries(child)
    return child
