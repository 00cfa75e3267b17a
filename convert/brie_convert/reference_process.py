"""Starts `brie_convert.reference` and reads what it answers. It knows its folder and its exit, and no torch.

The process computes from the moment it is started, beside the one that writes the file; whoever needs an answer waits.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from brie_core.errors import EngineFailure
from brie_core.libraries import environment_for_child

Floats = npt.NDArray[np.float32]

_POLL_SECONDS = 0.02
_FLOAT32_BYTES = 4
_ROOM = 1.1
"""What a process that computes takes beside its weights."""


@dataclass(frozen=True, slots=True)
class ReferenceTask:
    """What is computed, and from what."""

    base: Path
    adapter: Path | None
    evaluation: Sequence[Sequence[int]]
    """Token ids whose logits are wanted, by context."""
    own_texts: bool
    """Whether these are of prose of ours, for want of texts of the model's kind."""
    calibration: Sequence[Sequence[int]]
    """Token ids that the importance matrix is made from; empty for none."""
    parameters: int


def obstacle(task: ReferenceTask) -> str | None:
    """What keeps this machine from computing it, in words; None if nothing does."""
    wanted = ("torch", "transformers", *(("peft",) if task.adapter else ()))
    if absent := [name for name in wanted if find_spec(name) is None]:
        return f"{' and '.join(absent)} not installed (pip install 'brie-llm[trainer]')"
    needed, free = int(task.parameters * _FLOAT32_BYTES * _ROOM), _available_bytes()
    if free is not None and needed > free:
        return f"the model in float32 takes {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free"
    return None


def _available_bytes() -> int | None:
    """None where the system does not say."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


@contextmanager
def reference_process(task: ReferenceTask, folder: Path) -> Iterator["Reference"]:
    """The reference of `task`, being computed in `folder`; leaving ends what still runs."""
    folder.mkdir(parents=True)
    adapter = str(task.adapter) if task.adapter else None
    request = {"base": str(task.base), "adapter": adapter} | {
        "evaluation": [list(window) for window in task.evaluation],
        "calibration": [list(window) for window in task.calibration],
    }
    (folder / "request.json").write_text(json.dumps(request))
    with (folder / "stderr.txt").open("wb") as stderr:
        # A pipe that nobody writes to: the process ends when we do.
        process = subprocess.Popen(
            [sys.executable, "-m", "brie_convert.reference", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env=environment_for_child(os.environ),
        )
    try:
        yield Reference(process, folder)
    finally:
        process.kill()
        process.wait()
        if process.stdin:
            process.stdin.close()


class Reference:
    """Answers of a running process; each waits for it, and raises EngineFailure (export_reference_failed)."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self._process = process
        self._folder = folder

    def importance(self) -> dict[str, Floats]:
        """By the checkpoint's name of each linear layer, the mean square of what goes into each column."""
        with np.load(self._wait_for("importance.npz")) as found:
            return {name: found[name].astype(np.float32) for name in found}

    def logits(self) -> Floats:
        """A row per evaluation token, as they lie on disk."""
        columns = self._done()["columns"]
        return np.memmap(self._folder / "logits.f32", np.float32, "r").reshape(-1, columns)

    @property
    def versions(self) -> Mapping[str, str]:
        """Of the libraries that computed it."""
        versions: Mapping[str, str] = self._done()["versions"]
        return versions

    def _done(self) -> dict[str, Any]:
        done: dict[str, Any] = json.loads(self._wait_for("done.json").read_text())
        return done

    def _wait_for(self, name: str) -> Path:
        file = self._folder / name
        while self._process.poll() is None and not file.exists():
            time.sleep(_POLL_SECONDS)
        if file.exists():
            return file
        raise EngineFailure(
            f"transformers could not compute what the file has to agree with: {self._reason()}",
            code="export_reference_failed",
        )

    def _reason(self) -> str:
        said = (self._folder / "stderr.txt").read_text(errors="replace").strip().splitlines()
        if said:
            return said[-1][:300]
        status = self._process.returncode
        return "it was killed, perhaps for want of memory" if status == -9 else f"it ended with status {status}"
