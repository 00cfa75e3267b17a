"""`brie verify`: what passes, what does not, and what is said of it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brie_convert import inspect
from brie_convert.inspect import main, reports
from brie_core.weights.base_model import BaseModel, file_digest

Checkpoint = Callable[[str], BaseModel]
Export = Callable[..., Any]
WriteFile = Callable[..., Path]


@pytest.fixture
def exported(checkpoint: Checkpoint, run_export: Export) -> Path:
    """The file of a finished export, in its folder."""
    file, _ = run_export(checkpoint("llama"), "q8_0")
    return Path(file)


def _errors(path: Path) -> list[str | None]:
    return [report["error"] for report in reports(path)]


def test_an_export_passes_as_a_file_and_as_a_folder(exported: Path) -> None:
    [by_file] = reports(exported)
    by_folder = {report["file"]: report for report in reports(exported.parent)}
    assert by_file == by_folder.pop(exported.name)
    assert by_folder.keys() == {"Modelfile", "README.md"}
    assert all(other["error"] is None and other["in_manifest"] for other in by_folder.values())
    assert by_file["error"] is None
    assert by_file["in_manifest"]
    assert by_file["sha256"] == file_digest(exported)
    assert by_file["contents"]["weights"].keys() == {"F32", "Q8_0"}
    assert by_file["answer"].startswith("Virtue is")


def test_a_file_that_is_not_the_one_in_the_manifest_does_not_pass(exported: Path) -> None:
    data = bytearray(exported.read_bytes())
    data[-1] ^= 1
    exported.write_bytes(data)
    [error] = _errors(exported)
    assert error is not None
    assert "where manifest.json says" in error


def test_a_file_that_the_manifest_promises_has_to_be_there(exported: Path) -> None:
    exported.unlink()
    assert _errors(exported.parent) == [None, None, "it cannot be read: No such file or directory"]


def test_weights_that_nobody_vouches_for_do_not_pass(exported: Path) -> None:
    shutil.copy(exported, exported.parent / "other.gguf")
    assert _errors(exported.parent) == ["other.gguf is in the folder, but not in its manifest.json"]


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("{", "none of an export"),
        ("[" * 100_000, "none of an export"),
        ('{"files": 3}', "none of an export"),
        (" " * 5_000_000 + "{}", "larger than any"),
        ('{"files": [{"filename": "../x.gguf", "sha256": ""}]}', "outside its folder"),
        ('{"files": [{"filename": "/etc/passwd", "sha256": ""}]}', "outside its folder"),
    ],
)
def test_a_manifest_that_is_none_does_not_pass(exported: Path, manifest: str, reason: str) -> None:
    (exported.parent / "manifest.json").write_text(manifest)
    for path in (exported, exported.parent):
        [error] = _errors(path)
        assert error is not None
        assert reason in error


def test_llama_cpp_never_sees_a_file_whose_header_is_not_sound(
    exported: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hostile = tmp_path / "hostile.gguf"
    hostile.write_bytes(b"GGUF" + b"\xff" * 4000)
    monkeypatch.setattr(inspect, "_answer_of", None)
    [error] = _errors(hostile)
    assert error is not None
    assert "version" in error


def test_a_sound_header_before_weights_that_are_no_numbers_does_not_pass(
    checkpoint: Checkpoint, write_file: WriteFile
) -> None:
    file = write_file(checkpoint("llama"), "f32")
    data = file.read_bytes()
    file.write_bytes(data[:-50_000] + b"\xff" * 50_000)
    [error] = _errors(file)
    assert error == "llama.cpp computes no finite logits from the file."


def test_a_model_that_llama_cpp_does_not_know_does_not_pass(checkpoint: Checkpoint, write_file: WriteFile) -> None:
    file = write_file(checkpoint("llama"), "f32")
    file.write_bytes(file.read_bytes().replace(b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama", _STRANGE))
    [error] = _errors(file)
    assert error is not None
    assert error.startswith("llama.cpp does not load the file: ")


_STRANGE = b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0lllll"


def test_a_crash_of_llama_cpp_is_an_answer_too(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.CompletedProcess([], -11, stdout="", stderr="")
    run = inspect._run
    monkeypatch.setattr(inspect, "_run", lambda module, *rest: killed if "--answer" in rest[0] else run(module, *rest))
    assert _errors(exported) == ["llama.cpp fails on it (SIGSEGV)"]


def test_safetensors_pass_without_llama_cpp(checkpoint: Checkpoint) -> None:
    [report] = reports(checkpoint("llama").folder / "model.safetensors")
    assert (report["error"], report["in_manifest"], "answer" in report) == (None, False, False)
    assert report["contents"]["format"] == "safetensors"


def test_a_folder_with_nothing_to_check_does_not_pass(tmp_path: Path) -> None:
    [error] = _errors(tmp_path)
    assert error is not None
    assert "neither" in error


def test_it_says_so_in_words_and_by_its_status(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(exported)]) == 0
    told = capsys.readouterr().out
    assert f"{exported.name}: sound" in told
    assert "Q8_0" in told
    exported.write_bytes(exported.read_bytes()[:-100])
    assert main([str(exported)]) == 1
    assert "REFUSED: it ends after" in capsys.readouterr().out


def test_the_command_line_hands_over_to_it(exported: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-m", "brie_cli", "verify", "--json", str(exported)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout)["sha256"] == file_digest(exported)
    exported.write_bytes(b"GGUF")
    told = subprocess.run(
        [sys.executable, "-m", "brie_cli", "verify", str(exported)], capture_output=True, text=True, check=False
    )
    assert told.returncode == 1
    assert "REFUSED" in told.stdout
