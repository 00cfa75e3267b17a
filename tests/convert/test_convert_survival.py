"""kill -9 at random moments, a full disk, a place that cannot be written to: nothing partial, a clear word, a retry."""

import ctypes
import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brie_convert import pipeline
from brie_convert.outputs import gguf_model
from brie_convert.run import main
from brie_core.errors import EngineFailure
from brie_core.store.adapters import adapter_digest
from brie_core.weights.base_model import BaseModel, file_digest
from brie_core.weights.lora import read_adapter

Checkpoint = Callable[[str], BaseModel]
WriteAdapter = Callable[[BaseModel, Path], Path]

MOMENTS = 20
FORMATS: dict[str, dict[str, Any]] = {
    "gguf": {"format": "gguf", "quantization": "q4_k_m"},
    "merged": {"format": "merged"},
    "gguf_adapter": {"format": "gguf_adapter"},
    "peft": {"format": "peft"},
}
_DROP_CAPABILITY, _DAC_OVERRIDE = 24, 1


def _job(folder: Path, base: BaseModel, adapter: Path, output: Path, **asked: Any) -> Path:
    folder.mkdir(exist_ok=True)
    version = adapter_digest(read_adapter(adapter, base.linear_modules), base.digest)
    job = {
        "model": "survivor",
        "base": {"id": base.id, "folder": str(base.folder), "digest": base.digest},
        "adapter": {"version": version, "folder": str(adapter)},
        "quantization": None,
        "output": str(output),
        "compare": False,  # with transformers' logits: what is shown here is how a run ends, not what it says
    }
    (folder / "job.json").write_text(json.dumps(job | asked))
    (folder / "events.jsonl").unlink(missing_ok=True)
    return folder


def _start(folder: Path, before: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "brie_convert.run", str(folder)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=before,  # noqa: PLW1509  # no other thread holds anything that it needs
    )


def _finish(folder: Path, before: Callable[[], None] | None = None) -> int:
    with _start(folder, before) as process:
        return process.wait(timeout=200)


def _last(folder: Path) -> dict[str, Any]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    told: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    return told


def _assert_whole(output: Path) -> None:
    """Every file that the manifest names is there with its digest, and no other."""
    manifest = json.loads((output / "manifest.json").read_text())
    assert {path.name for path in output.iterdir()} == {"manifest.json", *(f["filename"] for f in manifest["files"])}
    for file in manifest["files"]:
        assert file_digest(output / file["filename"]) == file["sha256"]


@pytest.mark.timeout(900)
def test_killed_at_twenty_random_moments_it_leaves_nothing_partial_and_runs_again(
    default_model: BaseModel, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    adapter = write_adapter(default_model, tmp_path / "adapter")
    seconds, told = {}, []
    for name, asked in FORMATS.items():
        started = time.monotonic()
        job = _job(tmp_path / name, default_model, adapter, tmp_path / "first" / name, **asked)
        assert _finish(job) == 0, _last(job)
        seconds[name] = time.monotonic() - started
    dice = random.Random(6)
    for moment in range(MOMENTS):
        name = list(FORMATS)[moment % len(FORMATS)]
        output = tmp_path / "exports" / f"{name}-{moment}"
        job = _job(tmp_path / name, default_model, adapter, output, **FORMATS[name])
        with _start(job) as process:
            time.sleep(seconds[name] * dice.uniform(0.1, 0.95))
            process.kill()
            status = process.wait(timeout=10)
        finished = output.exists()
        told.append((name, status, (_last(job) if (job / "events.jsonl").is_file() else {}).get("message")))
        if finished:
            _assert_whole(output)
        if moment >= MOMENTS - len(FORMATS):  # one retry of each format, over what its kills have left
            assert _finish(job) == 0, _last(job)
            assert _last(job)["type"] == "result"
            _assert_whole(output)
            assert _digests(output) == _digests(tmp_path / "first" / name)
            assert not any((job / "work").iterdir())
    print(*told, sep="\n")
    killed = [message for _, status, message in told if status == -signal.SIGKILL]
    assert len(killed) >= MOMENTS * 3 // 4
    assert len(set(killed)) >= 4, "the moments were all the same"


def _digests(output: Path) -> dict[str, str]:
    return {path.name: file_digest(path) for path in output.iterdir()}


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_full_disk_is_told_and_leaves_nothing(
    checkpoint: Checkpoint, write_adapter: WriteAdapter, tmp_path: Path, name: str
) -> None:
    base = checkpoint("wide")
    adapter = write_adapter(base, tmp_path / "adapter")
    output = tmp_path / "exports" / name
    job = _job(tmp_path / "job", base, adapter, output, **FORMATS[name])
    most = 20_000  # bytes of any file, which no main file keeps to

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    assert _finish(job, limited) == 1
    assert _last(job)["code"] == "insufficient_storage", _last(job)
    assert "make room" in _last(job)["message"]
    assert not output.parent.exists()
    assert not any((job / "work").iterdir())
    assert _finish(job) == 0
    _assert_whole(output)


def test_a_folder_that_cannot_be_written_to_is_told_and_leaves_nothing(
    checkpoint: Checkpoint, write_adapter: WriteAdapter, tmp_path: Path
) -> None:
    base = checkpoint("llama")
    output = tmp_path / "exports" / "one"
    output.parent.mkdir(mode=0o555)
    job = _job(tmp_path / "job", base, write_adapter(base, tmp_path / "adapter"), output, format="peft")
    try:
        assert _finish(job, _without_roots_rights) == 1
    finally:
        output.parent.chmod(0o755)
    assert (_last(job)["type"], _last(job)["code"]) == ("error", "output_not_writable")
    assert list(output.parent.iterdir()) == []
    assert not any((job / "work").iterdir())
    assert _finish(job) == 0
    _assert_whole(output)


def _without_roots_rights() -> None:
    """Root writes wherever it likes, unless this capability is gone."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(_DROP_CAPABILITY, _DAC_OVERRIDE, 0, 0, 0)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "insufficient_storage"),
        (errno.EDQUOT, "insufficient_storage"),
        (errno.EROFS, "output_not_writable"),
        (errno.EIO, "export_failed"),
    ],
)
def test_what_the_disk_says_at_the_last_moment_is_told(
    checkpoint: Checkpoint,
    write_adapter: WriteAdapter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    number: int,
    code: str,
) -> None:
    def fail(staged: Path, final: Path) -> bool:
        raise OSError(number, os.strerror(number), str(final))

    base = checkpoint("llama")
    output = tmp_path / "exports" / "one"
    job = _job(tmp_path / "job", base, write_adapter(base, tmp_path / "adapter"), output, format="peft")
    monkeypatch.setattr(pipeline, "publish_folder", fail)
    assert main([str(job)]) == 1
    assert _last(job)["code"] == code
    assert os.strerror(number) in _last(job)["message"]
    assert str(tmp_path) not in _last(job)["message"]
    assert not output.exists()
    assert not any((job / "work").iterdir())


def test_llama_cpp_out_of_room_is_a_full_disk_and_no_fault_of_the_model(
    checkpoint: Checkpoint, write_adapter: WriteAdapter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> int:
        monkeypatch.setattr(gguf_model, "free_bytes", lambda _folder: 100)
        raise EngineFailure("llama.cpp could not quantize", code="quantization_failed")

    base = checkpoint("wide")
    output = tmp_path / "exports" / "one"
    job = _job(
        tmp_path / "job", base, write_adapter(base, tmp_path / "adapter"), output, format="gguf", quantization="q4_0"
    )
    monkeypatch.setattr(gguf_model, "quantize", fail)
    assert main([str(job)]) == 1
    assert _last(job)["code"] == "insufficient_storage"
