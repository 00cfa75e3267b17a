"""`python -m brie_convert.run FOLDER`: one export as a process. It knows a folder, and nothing of who started it.

FOLDER/job.json says what to do, FOLDER/events.jsonl tells how it goes, FOLDER/work is scratch and is emptied by the
next run. SIGTERM, and the end of its parent, end the process at once, whatever llama.cpp is doing: the output appears
by one rename or not at all.
"""

import errno
import json
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from brie_convert.manifest import AdapterFolder, ExportRequest
from brie_convert.pipeline import export
from brie_core.durable import is_disk_full
from brie_core.errors import BrieError
from brie_core.lifeline import die_with_parent
from brie_core.weights.base_model import BaseModel, read_json

_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})


def main(arguments: list[str]) -> int:
    """Exit status 0 after a result, 1 after an error."""
    folder = Path(arguments[0])
    with _open_events(folder / "events.jsonl") as stream:
        return _run(folder, _Events(stream))


class _Events:
    """Appends one flushed line per event."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, kind: str, **fields: Any) -> None:
        self._stream.write(json.dumps({"type": kind, **fields}) + "\n")
        self._stream.flush()

    def progress(self, message: str, fraction: float) -> None:
        self.write("progress", message=message, fraction=fraction)


def _run(folder: Path, events: _Events) -> int:
    try:
        result = export(_request(folder), events.progress)
    except BrieError as error:
        events.write("error", code=error.code or "export_failed", message=error.message, param=error.param)
        return 1
    except OSError as error:
        traceback.print_exc()
        events.write("error", **_failure_of_the_disk(error), param=None)
        return 1
    except Exception as error:  # noqa: BLE001  # the last line of a process: everything becomes an event
        traceback.print_exc()
        events.write("error", code="export_failed", message=f"The export failed: {_short(error)}", param=None)
        return 1
    events.write("result", files=[asdict(file) for file in result.files], manifest=result.manifest)
    return 0


def _failure_of_the_disk(error: OSError) -> dict[str, str]:
    """A full disk and a place that cannot be written to are the operator's to mend, and told apart."""
    reason = error.strerror or str(error)
    if is_disk_full(error):
        return {"code": "insufficient_storage", "message": f"The disk is full ({reason}): make room, and export again."}
    if error.errno in _NOT_WRITABLE:
        place = Path(str(error.filename)).name if error.filename else "the folder of exports"
        return {"code": "output_not_writable", "message": f"{place} cannot be written to: {reason}."}
    return {"code": "export_failed", "message": f"The export failed: {reason}."}


def _request(folder: Path) -> ExportRequest:
    job = read_json(folder / "job.json")
    base, adapter = job["base"], job["adapter"]
    return ExportRequest(
        model=job["model"],
        base=BaseModel(base["id"], Path(base["folder"]), base["digest"]),
        adapter=_adapter(adapter) if adapter else None,
        quantization=job["quantization"],
        output=Path(job["output"]),
        work=folder / "work",
        format=job.get("format", "gguf"),
        dtype=job.get("dtype"),
        texts=tuple(job.get("texts") or ()),
        rows=Path(job["rows"]) if job.get("rows") else None,
        compare=job.get("compare", True),
    )


def _adapter(fields: Mapping[str, Any]) -> AdapterFolder:
    return AdapterFolder(fields["version"], Path(fields["folder"]), fields.get("evaluation"))


def _open_events(file: Path) -> IO[str]:
    """For appending; the half line that a killed run may have left, and that nobody has read, goes first."""
    stream = file.open("a")
    stream.truncate(file.read_bytes().rfind(b"\n") + 1)
    return stream


def _short(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


if __name__ == "__main__":
    # Explicit, because an ignored SIGTERM is inherited; a Python handler would wait for the C call to return.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent()
    sys.exit(main(sys.argv[1:]))
