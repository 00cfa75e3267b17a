"""What Brie says of its API at /docs/openapi.json is what it does: schemathesis asks by the document and against it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from brie_processes import BrieProcesses

OWN_DOCUMENT = Path(__file__).parent.parent / "own_document"
ROW = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
PHASES = "examples,coverage,fuzzing,stateful"


@pytest.fixture(scope="module")
def workless(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrieProcesses]:
    """Without a worker, so that no job runs."""
    processes = BrieProcesses(tmp_path_factory.mktemp("workless") / "home", tiny_model)
    yield processes.start("brie_server")
    processes.stop_all()


def seeded(brie: BrieProcesses, lora: Path) -> dict[str, str]:
    """A file and an adapter to ask for, told to the hooks."""
    root = f"{brie.url}/v1"
    file = httpx2.post(f"{root}/files", data={"purpose": "fine-tune"}, files={"file": ("rows.jsonl", ROW)})
    folder = shutil.copytree(lora, brie.home / "judged")
    httpx2.post(f"{root}/load_lora_adapter", json={"lora_name": "judged", "lora_path": str(folder)})
    version = httpx2.get(f"{root}/adapters/judged").json()["version"]
    named = {"MODEL": "tiny", "FILE": file.json()["id"], "ADAPTER": "judged", "VERSION": version}
    return {f"BRIE_JUDGED_{name}": value for name, value in named.items()}


def schemathesis(brie: BrieProcesses, names: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """The command, with the hooks; options as its `run` has them."""
    command = [str(Path(sys.executable).with_name("schemathesis"))]
    command += ["--config-file", str(OWN_DOCUMENT / "schemathesis.toml"), "run", f"{brie.url}/docs/openapi.json"]
    command += ["--phases", PHASES, "--continue-on-failure", "--no-color", "--request-timeout", "60", *options]
    path = os.pathsep.join([str(OWN_DOCUMENT.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **names, "PYTHONPATH": path, "SCHEMATHESIS_HOOKS": "own_document.hooks"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def test_schemathesis_finds_nothing(workless: BrieProcesses, tiny_lora: Path, tmp_path: Path) -> None:
    names = seeded(workless, tiny_lora) | {"BRIE_JUDGED_MADE": str(tmp_path / "made")}
    judged = schemathesis(workless, names, "--max-examples", "5", "--generation-deterministic")
    assert judged.returncode == 0, judged.stdout[-6000:] + judged.stderr[-2000:]
    operations = sum(len(each) for each in httpx2.get(f"{workless.url}/docs/openapi.json").json()["paths"].values())
    assert f"{operations} selected / {operations} total" in judged.stdout
    assert {"/v1/fine_tuning/jobs", "/v1/exports", "/v1/evaluations"} <= set(
        (tmp_path / "made").read_text().splitlines()
    )
    assert "Traceback" not in workless.log("brie_server")


def test_the_document_has_bounds_streams_and_errors(workless: BrieProcesses) -> None:
    document: Any = httpx2.get(f"{workless.url}/docs/openapi.json").json()
    top_p = document["components"]["schemas"]["ChatRequest"]["properties"]["top_p"]
    assert {"type": "number", "exclusiveMinimum": 0, "maximum": 1} in top_p["anyOf"]
    for path in ("chat/completions", "completions"):
        answers = document["paths"][f"/v1/{path}"]["post"]["responses"]
        assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
        assert {"400", "401", "403", "404", "413", "415", "429", "503"} <= answers.keys()
    for operations in document["paths"].values():
        assert all({"401", "403"} <= operation["responses"].keys() for operation in operations.values())


def test_options_tells_the_methods_of_all_handlers_of_a_path(workless: BrieProcesses) -> None:
    for path, methods in (("files", "GET, OPTIONS, POST"), ("models/x", "DELETE, GET, OPTIONS")):
        assert httpx2.options(f"{workless.url}/v1/{path}").headers["allow"] == methods
