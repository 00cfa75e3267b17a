"""A Brie of real processes on loopback, to be asked, killed and started again. It knows no route."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import httpx2
import openai
import psutil

from brie_core.settings import Settings

_START_SECONDS = 240.0


class BrieProcesses:
    """One BRIE_HOME with an API and a worker, each a process."""

    def __init__(self, home: Path, model: Path | str, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith("BRIE_")}
        self._environment |= {"BRIE_HOME": str(home), "BRIE_PORT": str(self.port), "BRIE_MODEL": str(model)}
        # most models here are tiny: their products are no faster on two cores, and wait for each other on busy ones
        self._environment |= {"BRIE_DTYPE": "float32", "OMP_NUM_THREADS": "1", **(environment or {})}
        self.settings = Settings(home=home, database_url=self._environment.get("BRIE_DATABASE_URL", ""))
        """Where its rows and files are, for a test that looks or puts something there."""
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._clients: list[openai.OpenAI] = []

    def start(self, *modules: str) -> "BrieProcesses":
        """Start `brie_server` and/or `brie_trainer`, and wait until the API is ready."""
        self.home.mkdir(parents=True, exist_ok=True)
        for module in modules:
            with (self.home / f"{module}.log").open("ab") as log:
                self._processes[module] = subprocess.Popen(
                    [sys.executable, "-m", module], env=self._environment, stdout=log, stderr=log
                )
        if "brie_server" in modules:
            self._wait_until_ready()
        return self

    def start_supervised(self) -> "BrieProcesses":
        """`brie serve`: a supervisor with both beneath it."""
        self.home.mkdir(parents=True, exist_ok=True)
        with (self.home / "brie_server.log").open("ab") as log:
            command = [sys.executable, "-m", "brie_cli", "serve"]
            self._processes["brie_cli"] = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self._wait_until_ready("brie_cli")
        return self

    def modules_running(self) -> set[str]:
        """Which of Brie's modules run with this home, whoever started them."""
        found = set()
        for process in psutil.process_iter(["cmdline", "environ"]):
            if (process.info["environ"] or {}).get("BRIE_HOME") == str(self.home):
                found |= {word for word in process.info["cmdline"] or [] if word.startswith("brie_")}
        return found

    def start_another_worker(self) -> None:
        """A second one over the same home."""
        with (self.home / "another_worker.log").open("ab") as log:
            command = [sys.executable, "-m", "brie_trainer"]
            self._processes["another"] = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)

    def pid(self, module: str) -> int:
        """Of a process that runs."""
        return self._processes[module].pid

    def send(self, module: str, number: int) -> None:
        """A signal."""
        self._processes[module].send_signal(number)

    def kill(self, module: str) -> None:
        """kill -9."""
        process = self._processes.pop(module)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def stop(self, module: str) -> int:
        """SIGTERM; returns the exit status."""
        process = self._processes.pop(module)
        process.terminate()
        return process.wait(30)

    def stop_all(self) -> None:
        """The end, for processes and for connections to them; raises RuntimeError if one had ended by itself."""
        for client in self._clients:
            client.close()
        ended = [module for module, process in self._processes.items() if process.poll() is not None]
        for module in list(self._processes):
            self.stop(module)
        if ended:
            raise RuntimeError("\n".join(f"{module} had ended:\n{self.log(module)[-4000:]}" for module in ended))

    def client(self, **options: object) -> openai.OpenAI:
        """The unmodified SDK."""
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", **options)  # type: ignore[arg-type]
        self._clients.append(client)
        return client

    def log(self, module: str) -> str:
        """What a process printed."""
        return (self.home / f"{module}.log").read_text()

    def _wait_until_ready(self, module: str = "brie_server") -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._processes[module].poll() is not None:
                del self._processes[module]
                raise RuntimeError(self.log("brie_server"))
            try:
                if httpx2.get(f"{self.url}/health/ready").status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.1)
        raise TimeoutError(self.log("brie_server"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
