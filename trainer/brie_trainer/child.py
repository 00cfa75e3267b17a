"""A job's child process: started in its own session, ended for certain. It knows a module and a folder, no job."""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

from brie_core.libraries import environment_for_child

_GRACE_SECONDS = 5.0


class Child:
    """One running child; its output goes to log.txt in its folder."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, module: str, folder: Path) -> "Child":
        """Run `python -m module folder`; the child's stdin is the pipe by which it notices our end."""
        with (folder / "log.txt").open("ab") as log:  # opening a local file
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                module,
                str(folder),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment_for_child(os.environ),
            )
        return cls(process)

    @property
    def status(self) -> int | None:
        """Exit status; negative for a signal, None while it runs."""
        return self._process.returncode

    async def stop(self) -> None:
        """SIGTERM to the whole session, SIGKILL after a grace; returns once the child is gone."""
        for number, seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
            if self._process.returncode is not None:
                return
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), seconds)
