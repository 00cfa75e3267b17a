"""What a measurement is made with: the machine and the versions, in words, and the process it begins as."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from brie_core.libraries import environment_for_child

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm")
_PACKAGES = ("torch", "llama-cpp-python", "litestar", "uvicorn")


def begin_as_a_server() -> None:
    """Begin this process again with the environment that `brie serve` gives its own; call first thing in main.

    How threads wait for each other, and what becomes of freed memory, is decided when a process begins.
    """
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], environment_for_child(os.environ))


def facts(peers_home: Path | None = None) -> list[str]:
    """Lines for the head of a results page."""
    versions = [f"python {platform.python_version()}", *_own_versions(), *_peer_versions(peers_home)]
    return [
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {cores()} cores ({' '.join(cpu_flags())}), {_memory()}",
        f"commit {_commit()}; {', '.join(versions)}",
        f"`{shlex.join(['python', *sys.argv])}`",
    ]


def file_stem(what: str, hardware: str | None) -> str:
    """`what_hardware_yyyy-mm`."""
    short = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in cpu_flags()][:1]
    named = hardware or "-".join([cpu_model(), *short, f"{cores()}c"])
    return f"{what}_{re.sub(r'[^a-z0-9]+', '-', named.lower()).strip('-')}_{datetime.now(UTC):%Y-%m}"


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model() -> str:
    """As the machine calls it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Those that decide how fast matrices are multiplied."""
    here = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return [flag for flag in _FLAGS if flag in here]


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(rf"^{field}\s*: (.*)$", path.read_text(), re.MULTILINE) if path.is_file() else None
    return found[1].strip() if found else ""


def _memory() -> str:
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"


def _own_versions() -> Iterable[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"no {name}"


def _peer_versions(home: Path | None) -> Iterable[str]:
    """What the folders of installed packages are called."""
    for pattern in ("vllm*.dist-info", "xllamacpp*.dist-info"):
        for found in sorted(home.glob(f"*/lib/python*/site-packages/{pattern}")) if home else ():
            yield found.name.removesuffix(".dist-info").replace("-", " ")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
