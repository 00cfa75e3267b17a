"""Evaluations as their child sees them: a folder with job.json, run as a process or in this one. It knows no worker."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from brie_trainer.evaluation.__main__ import evaluate
from brie_trainer.evaluation.report import Report


def write_job(folder: Path, **job: Any) -> Path:
    """FOLDER/job.json, with `output` beside it unless it is given."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"output": str(folder.parent / "output")} | job
    (folder / "job.json").write_text(json.dumps(whole))
    return folder


def start(folder: Path) -> subprocess.Popen[bytes]:
    """The child; its stdin is the pipe that ends it with us."""
    with (folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", "brie_trainer.evaluation", str(folder)]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log)


def finish(child: subprocess.Popen[bytes], seconds: float = 240) -> int:
    """Its exit status."""
    status = child.wait(seconds)
    if child.stdin is not None:
        child.stdin.close()
    return status


def run(folder: Path) -> list[dict[str, Any]]:
    """What the child does, in this process and to its end; returns its events."""
    told: list[dict[str, Any]] = []
    evaluate(folder, threading.Event(), told.append)
    return told


def events(folder: Path) -> list[dict[str, Any]]:
    """What a child has told so far."""
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def report(folder: Path) -> Report:
    """Of a child that ended well."""
    job = json.loads((folder / "job.json").read_text())
    return Report.model_validate_json((Path(job["output"]) / "report.json").read_bytes())
