"""`python -m brie_convert.inspect PATH`: what a file or an export folder holds, and whether it can be trusted.

Whatever reads a stranger's bytes does so in a process that can be ended: the header in one with little memory, and only
if that found it sound, the whole in llama.cpp in another, whose crash is an answer too. It knows no job and no server.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from brie_core.libraries import environment_for_child
from brie_core.weights.base_model import file_digest

_MANIFEST = "manifest.json"
_MAX_MANIFEST = 4 * 2**20
_HEADER_SECONDS, _ANSWER_SECONDS = 20, 600
_SUFFIXES = (".gguf", ".safetensors")
_PROMPT, _TOKENS = "Virtue is", 16


class Untrustworthy(Exception):
    """Why a file does not pass."""


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 if everything passes, 1 if not."""
    given = _parser().parse_args(arguments)
    if given.answer:
        return _answer(given.path)
    sound = True
    for report in reports(given.path):
        sound = sound and report["error"] is None
        sys.stdout.write((json.dumps(report) if given.as_json else _in_words(report)) + "\n")
        sys.stdout.flush()
    return 0 if sound else 1


def reports(path: Path) -> Iterator[dict[str, Any]]:
    """One for each file at `path`; `error` says why it does not pass, or is None."""
    try:
        folder = path if path.is_dir() else path.parent
        promised = _promised(folder / _MANIFEST)
        files = _files(path, promised) if path.is_dir() else [path]
    except Untrustworthy as error:
        yield {"file": path.name, "error": str(error)}
        return
    for file in files:
        yield _report(file, file.relative_to(folder).as_posix(), promised)


def _report(file: Path, name: str, promised: Mapping[str, str]) -> dict[str, Any]:
    report: dict[str, Any] = {"file": name, "error": None}
    try:
        if file.suffix in _SUFFIXES or name not in promised:
            report["contents"] = _header(file)
        report["sha256"] = _digest(file)
        report["in_manifest"] = name in promised
        if promised.get(name, report["sha256"]) != report["sha256"]:
            raise Untrustworthy(f"its sha256 is {report['sha256']}, where {_MANIFEST} says {promised[name]}")
        found = report.get("contents", {})
        if found.get("format") == "gguf" and found["kind"] == "model":
            report["answer"] = _answer_of(file)
    except Untrustworthy as error:
        report["error"] = str(error)
    return report


def _promised(manifest: Path) -> dict[str, str]:
    """The sha256 of each file that the manifest beside it names; empty without a manifest."""
    if not manifest.is_file():
        return {}
    try:
        if manifest.stat().st_size > _MAX_MANIFEST:
            raise ValueError("it is larger than any")
        files = json.loads(manifest.read_bytes())["files"]
        promised = {str(entry["filename"]): str(entry["sha256"]) for entry in files}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Untrustworthy(f"{_MANIFEST} is none of an export: {error}") from error
    for name in promised:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise Untrustworthy(f"{_MANIFEST} names a file outside its folder: {name!r}")
    return promised


def _files(folder: Path, promised: Mapping[str, str]) -> list[Path]:
    """What the manifest names, and what has weights without being named."""
    there = {file for file in folder.rglob("*") if file.suffix in _SUFFIXES and file.is_file()}
    files = sorted({folder / name for name in promised} | there)
    if not files:
        raise Untrustworthy(f"there is neither a {_MANIFEST} nor a file that ends in {' or '.join(_SUFFIXES)}")
    if promised and (strangers := there - {folder / name for name in promised}):
        raise Untrustworthy(f"{min(strangers).name} is in the folder, but not in its {_MANIFEST}")
    return files


def _digest(file: Path) -> str:
    try:
        return file_digest(file)
    except OSError as error:
        raise Untrustworthy(f"it cannot be read: {error.strerror}") from error


def _header(file: Path) -> dict[str, Any]:
    # One thread of OpenBLAS: each reserves memory, of which there is little.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    told = _run("brie_convert.soundness", [str(file)], _HEADER_SECONDS, environment)
    found = _last_json(told.stdout)
    if told.returncode < 0 or found is None:
        raise Untrustworthy(f"its header could not be read within the limits ({_end(told.returncode)})")
    if "error" in found:
        raise Untrustworthy(str(found["error"]))
    return found


def _answer_of(file: Path) -> str:
    told = _run("brie_convert.inspect", ["--answer", str(file)], _ANSWER_SECONDS, environment_for_child(os.environ))
    found = _last_json(told.stdout)
    if found is None:
        raise Untrustworthy(f"llama.cpp fails on it ({_end(told.returncode)})")
    if "error" in found:
        raise Untrustworthy(str(found["error"]))
    return str(found["answer"])


def _answer(file: Path) -> int:
    """In a process of its own: one line of JSON."""
    from brie_convert.llama_runtime import open_file
    from brie_core.errors import BrieError

    try:
        with open_file(file) as loaded:
            tokens = loaded.answer(loaded.tokenize(_PROMPT, add_special_tokens=True), _TOKENS)
            told = {"answer": _PROMPT + loaded.text(tokens)}
    except BrieError as error:
        told = {"error": error.message}
    sys.stdout.write(json.dumps(told) + "\n")
    return 1 if "error" in told else 0


def _run(
    module: str, arguments: Sequence[str], seconds: float, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Untrustworthy(f"reading it took more than {seconds:g} seconds") from error


def _last_json(told: str) -> dict[str, Any] | None:
    lines = told.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _end(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _in_words(report: Mapping[str, Any]) -> str:
    if report["error"]:
        return f"{report['file']}: REFUSED: {report['error']}"
    lines = [f"{report['file']}: sound"]
    if found := report.get("contents"):
        total = sum(found["weights"].values())
        types = ", ".join(
            f"{n / total:.0%} {kind}" for kind, n in sorted(found["weights"].items(), key=lambda i: -i[1])
        )
        what = " ".join(part for part in (found["format"], found["architecture"], found["kind"]) if part)
        bits = 8 * found["bytes"] / total
        lines.append(f"  {what}: {found['tensors']} tensors, {total:,} weights of {bits:.2f} bits: {types}")
    lines.append(f"  sha256 {report['sha256']}" + (", as in its manifest" if report["in_manifest"] else ""))
    if "answer" in report:
        lines.append(f"  llama.cpp answers: {report['answer']!r}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="brie verify", description="Check exported files.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--json", dest="as_json", action="store_true")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
