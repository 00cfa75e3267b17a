"""The child process: a folder in, events out, and nothing half-done however it ends."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brie_convert.run import main
from brie_core.store.adapters import adapter_digest
from brie_core.weights.base_model import BaseModel, file_digest
from brie_core.weights.lora import read_adapter

Checkpoint = Callable[[str], BaseModel]
WriteAdapter = Callable[[BaseModel, Path], Path]


def _write_job(folder: Path, base: BaseModel, output: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    job = {
        "model": "ft:tiny:brie:x",
        "base": {"id": base.id, "folder": str(base.folder), "digest": base.digest},
        "adapter": None,
        "quantization": "q8_0",
        "output": str(output),
        "compare": False,
    }
    (folder / "job.json").write_text(json.dumps(job | changes))
    return folder


def _events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def _start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "brie_convert.run", str(folder)], stdin=subprocess.PIPE)


def _finish(folder: Path) -> int:
    with _start(folder) as process:
        return process.wait(timeout=120)


def _adapter(base: BaseModel, folder: Path) -> dict[str, str]:
    return {"version": adapter_digest(read_adapter(folder, base.linear_modules), base.digest), "folder": str(folder)}


def _kill_at(message: str, folder: Path, number: signal.Signals) -> int:
    """Run FOLDER, signal it when it says `message`, and return its exit status."""
    with _start(folder) as process:
        while process.poll() is None and not _has_said(message, folder):
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(timeout=5)


def _has_said(message: str, folder: Path) -> bool:
    events = folder / "events.jsonl"
    return events.is_file() and message in events.read_text()


def test_a_job_ends_with_a_result_that_names_the_file(
    checkpoint: Checkpoint, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    base = checkpoint("llama")
    adapter = _adapter(base, write_adapter(base, tmp_path / "adapter"))
    folder = _write_job(tmp_path / "job", base, tmp_path / "out", adapter=adapter)
    assert main([str(folder)]) == 0
    *progress, result = _events(folder)
    assert {event["type"] for event in progress} == {"progress"}
    fractions = [event["fraction"] for event in progress]
    assert fractions == sorted(fractions)
    assert result["type"] == "result"
    file, *others = result["files"]
    assert [each["filename"] for each in others] == ["Modelfile", "README.md", "manifest.json"]
    assert file["filename"] == "ft-tiny-brie-x-q8_0.gguf"
    assert file["sha256"] == file_digest(tmp_path / "out" / file["filename"])
    assert result["manifest"]["adapter"]["version"] == adapter["version"]


def test_a_refusal_is_an_event_with_its_code_and_param(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = _write_job(tmp_path / "job", checkpoint("llama"), tmp_path / "out", quantization="q1")
    assert main([str(folder)]) == 1
    error = _events(folder)[-1]
    assert (error["type"], error["code"], error["param"]) == ("error", "unsupported_quantization", "quantization")


def test_anything_else_is_export_failed_with_the_traceback_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.json").write_text('{"base": {}, "adapter": null}')
    assert main([str(tmp_path)]) == 1
    error = _events(tmp_path)[-1]
    assert (error["code"], error["message"]) == ("export_failed", "The export failed: KeyError: 'model'")
    assert "Traceback" in capsys.readouterr().err


def test_the_half_line_of_a_killed_run_is_taken_back(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = _write_job(tmp_path / "job", checkpoint("llama"), tmp_path / "out", quantization="q1")
    (folder / "events.jsonl").write_text('{"type": "progress"}\n{"type": "progr')
    main([str(folder)])
    assert [event["type"] for event in _events(folder)] == ["progress", "error"]


def test_it_ends_when_its_parents_end_of_the_pipe_is_closed(default_model: BaseModel, tmp_path: Path) -> None:
    folder = _write_job(tmp_path / "job", default_model, tmp_path / "out")
    with _start(folder) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(timeout=10) == 1
    assert not (tmp_path / "out").exists()


def test_a_killed_run_leaves_nothing_and_can_be_run_again_anywhere(
    default_model: BaseModel, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    adapter = _adapter(default_model, write_adapter(default_model, tmp_path / "adapter"))
    changes = {"adapter": adapter, "quantization": "q4_k_m"}
    output = tmp_path / "exports" / "one"
    folder = _write_job(tmp_path / "job", default_model, output, **changes)
    assert _kill_at("quantizing", folder, signal.SIGTERM) == -signal.SIGTERM
    assert not output.parent.exists()
    (folder / "events.jsonl").unlink()
    assert _kill_at("merging", folder, signal.SIGKILL) == -signal.SIGKILL
    assert any((folder / "work").iterdir())
    assert not output.parent.exists()
    other = _write_job(tmp_path / "other", default_model, output, **changes)
    assert _finish(other) == 0
    assert _finish(folder) == 0  # finds the work done
    assert _events(folder)[-1]["files"] == _events(other)[-1]["files"]
    assert _events(other)[-1]["manifest"]["tensors"]["types"]["Q4_K"] == 16
