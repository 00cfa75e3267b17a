"""`python -m brie_trainer.evaluation FOLDER`: one attempt at one evaluation. The folder is the whole contract.

In: FOLDER/job.json, a `contract.Job`. Out: FOLDER/events.jsonl, a JSON object a line, and in the job's `output`:

    rows.jsonl      every question with what came of it, on the disk before the next is asked
    asked.json      what is asked, by digests; rows of another evaluation are refused
    report.json     `report.Report`, a pure function of job, material and rows
    gate.json       `gate.GateReport`, if the job has a gate
    page.html       the report to be looked at, one file without resources
    card.md         the section for a model card

Events: {"type": "progress", "fraction": 0 to 1, "message"} whenever there is something to say, and a last one:

    {"type": "result", "files": [{"filename", "bytes", "sha256"}], "sentences": [...], "gate": gate.json or null}
    {"type": "error", "code", "message", "param"}
    {"type": "stopped"}, after SIGTERM

A gate that is not passed is a result: `gate.passed` says so.

It opens no database, and it dies with the worker that started it. Killed at any time and started again, it goes on.
"""

import hashlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from brie_core.durable import write_file
from brie_core.errors import BrieError, Conflict, InvalidRequest
from brie_core.libraries import prepare_libraries
from brie_core.lifeline import die_with_parent
from brie_core.weights.base_model import read_json
from brie_trainer.evaluation import gate
from brie_trainer.evaluation.asking import Stopped
from brie_trainer.evaluation.card import card_section
from brie_trainer.evaluation.contract import Job
from brie_trainer.evaluation.material import Material, read_material
from brie_trainer.evaluation.page import page
from brie_trainer.evaluation.report import Report
from brie_trainer.evaluation.rows import RowLog, read_rows
from brie_trainer.evaluation.running import Running
from brie_trainer.evaluation.summary import as_bytes, build_report

Emit = Callable[[dict[str, Any]], None]
FILES = ("report.json", "page.html", "card.md", "rows.jsonl")


def main(folder: Path) -> int:
    """Run the attempt in `folder`; the exit status is 0 if its last event is a result, or that it was stopped."""
    die_with_parent()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    prepare_libraries(os.environ)
    with (folder / "events.jsonl").open("a", buffering=1) as events:

        def emit(event: dict[str, Any]) -> None:
            events.write(json.dumps(event) + "\n")

        return evaluate(folder, stop, emit)


def evaluate(folder: Path, stop: threading.Event, emit: Emit) -> int:
    """The attempt, with its last word; `stop` ends it. Returns the exit status."""
    try:
        emit(attempt(read_job(folder), stop, emit))
    except Stopped:
        emit({"type": "stopped"})
    except BrieError as error:
        emit(_error(error.code or "evaluation_failed", error.message, error.param))
        return 1
    except Exception as error:  # noqa: BLE001  the last word of this process, whatever happened
        traceback.print_exc()
        emit(_error("evaluation_failed", f"{type(error).__name__}: {error}", None))
        return 1
    return 0


def read_job(folder: Path) -> Job:
    """Raises InvalidRequest that names the field."""
    try:
        return Job.model_validate(read_json(folder / "job.json"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        raise InvalidRequest(f"The evaluation cannot be run: {where or 'it'}: {first['msg']}.", param=where) from error


def attempt(job: Job, stop: threading.Event, emit: Emit) -> dict[str, Any]:
    """Ask what is left to ask, write what it says, and return the result's event."""

    def tell(fraction: float, message: str) -> None:
        emit({"type": "progress", "fraction": round(fraction, 4), "message": message})

    output = Path(job.output)
    output.mkdir(parents=True, exist_ok=True)
    material = read_material(job)
    if job.gate is not None:  # a figure that there will not be is to be told now, and not when all has been asked
        gate.judge(build_report(job, material, ()).model_dump(mode="json"), job.gate)
    with RowLog(output / "rows.jsonl") as log:
        check_same(output, job, material)
        Running(job, material, log, stop, tell).run()
        report = build_report(job, material, read_rows(output / "rows.jsonl"))
        return written(output, job, report)


def check_same(output: Path, job: Job, material: Material) -> None:
    """Rows are gone on from only if they answer what is asked now; raises Conflict."""
    asked = json.loads(json.dumps({**job.as_asked(), **_digests(material)}))
    file = output / "asked.json"
    if not file.is_file():
        write_file(file, json.dumps(asked, ensure_ascii=False, indent=1).encode())
        return
    before = read_json(file)
    if changed := sorted(name for name in asked.keys() | before.keys() if asked.get(name) != before.get(name)):
        raise Conflict(
            f"{output} has rows of another evaluation: {', '.join(changed)} differ. Give this one a folder of its own.",
            param="output",
            code="evaluation_changed",
        )


def written(output: Path, job: Job, report: Report) -> dict[str, Any]:
    """Every file that follows from the report; returns the result's event."""
    told = as_bytes(report)
    write_file(output / "report.json", told)
    write_file(output / "page.html", page(report).encode())
    write_file(output / "card.md", card_section(report).encode())
    names, judged = list(FILES), None
    if job.gate is not None:
        judged = gate.judge(json.loads(told), job.gate).as_json()
        write_file(output / "gate.json", json.dumps(judged, ensure_ascii=False, indent=1).encode())
        names.append("gate.json")
    return {
        "type": "result",
        "files": [_described(output / name) for name in names],
        "sentences": [comparison.sentence for comparison in report.comparisons],
        "gate": judged,
    }


def _digests(material: Material) -> dict[str, Any]:
    return {
        "held_out_sha256": material.held_out_sha256,
        "prompts_sha256": material.prompts_sha256,
        "tokenizers": dict(material.tokenizers),
    }


def _described(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"filename": file.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _error(code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"type": "error", "code": code, "message": message, "param": param}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
