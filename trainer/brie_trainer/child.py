"""A job's child process in a session of its own: asked to stop, or ended. It knows a module and a folder, no job."""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from brie_core.libraries import environment_for_child

_GRACE_SECONDS = 8.0


class Child:
    """One running child; its output goes to log.txt in its folder."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(
        cls, module: str, folder: Path, told: Mapping[str, str] = MappingProxyType({}), handles: Sequence[int] = ()
    ) -> "Child":
        """Run `python -m module folder`, with `told` in its environment and the open files `handles`.

        The child's stdin is the pipe by which it notices our end.
        """
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
                pass_fds=tuple(handles),
                env=environment_for_child({**os.environ, **told}),
            )
        return cls(process)

    @property
    def status(self) -> int | None:
        """Exit status; negative for a signal, None while it runs."""
        return self._process.returncode

    def ask_to_stop(self) -> None:
        """SIGTERM to the whole session: a training process writes a checkpoint and ends by itself."""
        self._signal(signal.SIGTERM)

    async def stop(self) -> None:
        """Ask it to stop, and end it after a grace; returns once the child is gone."""
        self.ask_to_stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _GRACE_SECONDS)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to the whole session; returns once the child is gone."""
        self._signal(signal.SIGKILL)
        await self._process.wait()

    def _signal(self, number: int) -> None:
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
