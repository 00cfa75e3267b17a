"""The servers that are compared, and how each is started and stopped. It knows commands, and measures nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import httpx2

_GRACE_SECONDS = 60.0


class Scenario(StrEnum):
    """Who is asked."""

    BASE = "base"
    FEW = "8 adapters"
    MANY = "64 adapters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One way to start one server; an empty command means that it runs already, at `url`."""

    name: str
    command: tuple[str, ...] = ()
    """`{port}` stands for the port."""
    environment: Mapping[str, str] = field(default_factory=dict)
    scenarios: tuple[Scenario, ...] = (Scenario.BASE,)
    ready_path: str = "/health"
    lora_ids: int = 0
    """Adapters that it was started with, which requests choose by number; else adapters are loaded by name."""
    replaces: bool = False
    """Whether loading a name anew must be asked for: its data outlive the process."""
    url: str = ""


def brie(name: str, home: Path, roots: Path, environment: Mapping[str, str]) -> Server:
    """`brie serve` with the Python that runs this; `environment` has BRIE_MODEL and what else differs."""
    home.mkdir(parents=True, exist_ok=True)
    own = {"BRIE_HOME": str(home), "BRIE_PORT": "{port}", "BRIE_ADAPTER_ROOTS": str(roots)}
    few = (Scenario.BASE, Scenario.FEW)
    return Server(
        name=name,
        command=(sys.executable, "-m", "brie_cli", "serve"),
        environment={**own, **environment},
        scenarios=few if environment.get("BRIE_ENGINE") == "llamacpp" else tuple(Scenario),
        ready_path="/health/ready",
        replaces=True,
    )


def vllm(name: str, scripts: Path, model: Path, *, with_lora: bool) -> Server:
    """vLLM over a Hugging Face folder, by the peers' own script."""
    return Server(
        name=name,
        command=(str(scripts / "serve-vllm"), str(model), "{port}"),
        environment={} if with_lora else {"NO_LORA": "1"},
        scenarios=tuple(Scenario) if with_lora else (Scenario.BASE,),
    )


def llama(name: str, scripts: Path, file: Path, adapters: Path | None = None, count: int = 0) -> Server:
    """llama.cpp's server over a GGUF file, with the first `count` adapters of a folder, or with none."""
    glob = (str(adapters / "*.gguf"),) if adapters else ()
    return Server(
        name=name,
        command=(str(scripts / "serve-llama"), str(file), "{port}", "32", *glob),
        scenarios=(Scenario.FEW,) if adapters else (Scenario.BASE,),
        lora_ids=count,
    )


@contextmanager
def running(server: Server, log: Path, patience: float = 600.0) -> Iterator[str]:
    """Start it, wait until it is ready, give its URL, stop it; raises RuntimeError if it never is ready."""
    if not server.command:
        yield server.url
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what we started ends with us
    port = _free_port()
    command = [part.format(port=port) for part in server.command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=_environment(server, port), stdout=output, stderr=output, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url + server.ready_path, log, patience)
        yield url
    finally:
        _stop(process)


def base_model(url: str) -> str:
    """The name of the model that is nobody's child."""
    models = httpx2.get(f"{url}/v1/models", timeout=60).raise_for_status().json()["data"]
    return str(next(each["id"] for each in models if not each.get("parent")))


def load_adapter(url: str, folder: Path, *, replaces: bool) -> None:
    """Have it answer from `folder` under the folder's name; raises httpx2.HTTPStatusError."""
    fields: dict[str, str | bool] = {"lora_name": folder.name, "lora_path": str(folder)}
    body = fields | ({"load_inplace": True} if replaces else {})
    httpx2.post(f"{url}/v1/load_lora_adapter", json=body, timeout=300).raise_for_status()


def _environment(server: Server, port: int) -> dict[str, str]:
    """Ours without what is meant for a Brie, and for a peer also without our own packages."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("BRIE_")}
    if server.command[0] != sys.executable:
        ours.pop("PYTHONPATH", None)
    return ours | {name: value.format(port=port) for name, value in server.environment.items()}


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"it ended with status {process.returncode}: {_last_line(log)}")
        try:
            if httpx2.get(url, timeout=5).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"it was not ready after {patience:.0f} s: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """The whole session that we started; a server that stays is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            pass
        return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
