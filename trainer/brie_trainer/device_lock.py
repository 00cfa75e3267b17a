"""One accelerator for one job at a time: a lock that its process holds too. It knows names and files; no torch, no job.

A CPU is shared. The lock's file lies in BRIE_HOME under the host's name, so that all workers of a host meet there; the
job's process inherits it, and it is free only once that has ended too, however it went.
"""

import fcntl
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

_NVIDIA = Path("/dev/nvidiactl")


def device_name(wanted: str, platform: str = sys.platform, nvidia: Path = _NVIDIA) -> str:
    """What BRIE_DEVICE names on this machine, without asking torch: `cuda:0`, `mps`, `cpu`."""
    if wanted == "auto":
        wanted = "cuda" if nvidia.exists() else "mps" if platform == "darwin" else "cpu"
    return "cuda:0" if wanted == "cuda" else wanted


class DeviceLock:
    """The lock of one host's device."""

    def __init__(self, home: Path, host: str, device: str) -> None:
        self._path = home / "devices" / f"{re.sub('[^A-Za-z0-9.-]', '_', host)}-{device.replace(':', '-')}.lock"
        self._is_shared = device == "cpu"
        self._handle: int | None = None

    @property
    def handles(self) -> Sequence[int]:
        """What the job's process is to inherit."""
        return () if self._handle is None else (self._handle,)

    def take(self) -> bool:
        """Take it if nobody has it; the same again changes nothing."""
        if self._is_shared or self._handle is not None:
            return True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def give_back(self) -> None:
        """Let go of it; no error if it was not taken."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
