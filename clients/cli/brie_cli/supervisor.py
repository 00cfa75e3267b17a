"""Starts API and worker as processes and keeps them running. It knows exit statuses, not what the processes do."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import FrameType

from brie_core.libraries import environment_for_child

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 15.0
_RESTART_AFTER_SECONDS = 1.0
_UNUSABLE = 2
"""The status of a service that said in one line which setting or model it cannot use: it would say so again."""
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # our own server is never behind a proxy


class Supervisor:
    """One API and, beside it, one worker; either comes back when it was killed, or failed by a fault of ours."""

    def __init__(self, base_url: str, *, with_worker: bool) -> None:
        self._base_url = base_url
        self._with_worker = with_worker
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._was_ready = False
        self._stopping = False

    def run(self) -> int:
        """Until a signal, or until the API ends by itself; returns the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        status = self._watch()
        self._end_all()
        return status

    def _watch(self) -> int:
        self._start("brie_server")
        while not self._stopping:
            time.sleep(_POLL_SECONDS)
            if self._stopping:
                break
            if not self._was_ready and self._ready():
                self._was_ready = True
                sys.stderr.write(f"brie: ready on {self._base_url}\n")
                if self._with_worker:
                    self._start("brie_trainer")
            for module, process in list(self._processes.items()):
                status = process.poll()
                if module == "brie_server" and status is not None and status >= 0:
                    return status
                if status is not None:
                    self._replace(module, status)
        return 0

    def _replace(self, module: str, status: int) -> None:
        _close(self._processes.pop(module))
        if status == _UNUSABLE:
            sys.stderr.write(f"brie: {module} cannot work with these settings; going on without it\n")
            return
        sys.stderr.write(f"brie: {module} ended with status {status}; starting it again\n")
        time.sleep(_RESTART_AFTER_SECONDS)
        if not self._stopping:
            self._start(module)

    def _start(self, module: str) -> None:
        """The child's stdin is a pipe that we never write to: it ends when we do. Its signals come from us alone."""
        command = [sys.executable, "-m", module, "--supervised"]
        self._processes[module] = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment_for_child(os.environ), start_new_session=True
        )

    def _ready(self) -> bool:
        try:
            with _OPENER.open(f"{self._base_url}/health/ready", timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _end_all(self) -> None:
        for process in self._processes.values():
            process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    """Our end of the pipe of a process that has ended."""
    if process.stdin:
        process.stdin.close()
