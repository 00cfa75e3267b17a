"""What a worker tells of itself while it lives. It knows rows, a host and a device; no job and no process."""

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from sqlalchemy.exc import DBAPIError

from brie_core import __version__
from brie_core.errors import DatabaseUnavailable
from brie_core.store.workers import BEAT_SECONDS, Worker, WorkerStore
from brie_trainer.patience import unbroken

logger = logging.getLogger("brie.worker")


def this_worker(device: str, kinds: Iterable[str]) -> Worker:
    """This process, as a worker that others may see."""
    host = socket.gethostname()[:64]
    return Worker(
        id=f"{host}:{os.getpid()}:{secrets.token_hex(4)}",
        host=host,
        pid=os.getpid(),
        device=device,
        version=__version__,
        kinds=tuple(kinds),
        started_at=int(time.time()),
    )


class Presence:
    """One worker in the register of workers."""

    def __init__(self, worker: Worker, register: WorkerStore) -> None:
        self.worker = worker
        self._register = register

    async def last(self) -> None:
        """Be seen until cancelled, and then no more."""
        try:
            while True:
                await self._beat()
                await asyncio.sleep(BEAT_SECONDS)
        finally:
            await asyncio.shield(self._leave())

    async def wait_for(self, what: str | None) -> None:
        """Say at once why no job can be taken, or (None) that one can."""
        if what != self.worker.waits_for:
            self.worker = replace(self.worker, waits_for=what)
            await self._beat()

    async def _beat(self) -> None:
        try:
            await unbroken(self._register.beat(self.worker))
        except (DatabaseUnavailable, DBAPIError) as error:
            logger.warning("this worker could not make itself known: %s", error)

    async def _leave(self) -> None:
        with suppress(DatabaseUnavailable, DBAPIError):
            await self._register.leave(self.worker.id)
