"""Compiles `rows.cpp` for this machine's CPU, once, beside Python's own compiled modules. It knows only the compiler.

Without a compiler it takes what was made ahead for a class of CPUs, as images have it. Without either nothing is lost
but speed: the same operations exist as tensor operations.
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

from brie_server.engine.torch.compiled.ahead import FLAGS, SOURCE, compile_rows, made_ahead

logger = logging.getLogger(__name__)
_MOST_SECONDS = 120


@cache
def load_rows() -> ctypes.CDLL | None:
    """The compiled functions; None, with one line in the log, where they cannot be had."""
    compiler = shutil.which("c++") or shutil.which("g++")
    ahead = made_ahead(_cpuinfo().decode()) if compiler is None else None
    if platform.system() != "Linux" or (compiler is None and ahead is None):
        logger.warning("No C++ compiler for Linux here: the engine runs without its compiled operations, slower.")
        return None
    torch.get_num_threads()
    try:
        return ctypes.CDLL(str(ahead)) if compiler is None else _loaded(compiler)
    except (OSError, subprocess.SubprocessError) as error:
        told = getattr(error, "stderr", None) or str(error)
        logger.warning("The engine runs without its compiled operations, slower: %s", told.strip()[-500:])
        return None


def _loaded(compiler: str) -> ctypes.CDLL:
    kept = SOURCE.parent / "__pycache__" / f"rows-{_key(compiler)}.so"
    with suppress(OSError):  # it is not there yet, or not whole
        return ctypes.CDLL(str(kept))
    with _room(kept.parent) as room:
        compiled = Path(room) / kept.name
        compile_rows(compiler, "native", compiled, _MOST_SECONDS)
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
    parts = (SOURCE.read_bytes(), " ".join(FLAGS).encode(), os.fsencode(compiler), version, _cpu())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _cpu() -> bytes:
    names = (b"model name", b"flags", b"Features", b"CPU part")
    lines = {line for line in _cpuinfo().splitlines() if line.startswith(names)}
    return b"\n".join(sorted(lines)) or platform.processor().encode()


def _cpuinfo() -> bytes:
    try:
        return Path("/proc/cpuinfo").read_bytes()
    except OSError:
        return b""
