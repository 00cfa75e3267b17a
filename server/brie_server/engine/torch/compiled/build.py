"""Compiles `rows.cpp` for this machine's CPU, once, beside Python's own compiled modules. It knows only the compiler.

Without a compiler nothing is lost but speed: the same operations exist as tensor operations.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_name("rows.cpp")
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    # nothing here may change a result: sums that may be taken in another order say so in the source
    "-fno-math-errno",
    "-fno-trapping-math",
    # the OpenMP library that is found is the one that torch has loaded: both share its threads
    "-fopenmp",
    "-shared",
    "-fPIC",
)
_MOST_SECONDS = 120


@cache
def load_rows() -> ctypes.CDLL | None:
    """The compiled functions; None, with one line in the log, where they cannot be had."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if platform.system() != "Linux" or compiler is None:
        logger.warning("No C++ compiler for Linux here: the engine runs without its compiled operations, slower.")
        return None
    torch.get_num_threads()
    try:
        return _loaded(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        logger.warning("The engine runs without its compiled operations, slower: %s", told.strip()[-500:])
        return None


def _loaded(compiler: str) -> ctypes.CDLL:
    kept = _SOURCE.parent / "__pycache__" / f"rows-{_key(compiler)}.so"
    with suppress(OSError):  # it is not there yet, or not whole
        return ctypes.CDLL(str(kept))
    with _room(kept.parent) as room:
        compiled = Path(room) / kept.name
        command = [compiler, *_FLAGS, "-o", str(compiled), str(_SOURCE)]
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=_MOST_SECONDS)
        library = ctypes.CDLL(str(compiled))  # before it is kept, and for good: the file may go
        with suppress(OSError):
            compiled.replace(kept)
    return library


def _room(folder: Path) -> tempfile.TemporaryDirectory[str]:
    """There, so that what is compiled is kept by one rename; beside a read-only installation each process compiles."""
    try:
        folder.mkdir(exist_ok=True)
        return tempfile.TemporaryDirectory(dir=folder, prefix="rows-")
    except OSError:
        return tempfile.TemporaryDirectory(prefix="brie-rows-")


def _key(compiler: str) -> str:
    """What the result depends on: source, flags, compiler and the CPU that `native` means."""
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=_MOST_SECONDS).stdout
    parts = (_SOURCE.read_bytes(), " ".join(_FLAGS).encode(), os.fsencode(compiler), version, _cpu())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _cpu() -> bytes:
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    names = (b"model name", b"flags", b"Features", b"CPU part")
    return b"\n".join(sorted({line for line in lines if line.startswith(names)}))
