"""Waits for a database that is away. It knows times and one error; no job and no statement."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from brie_core.errors import BrieError, DatabaseUnavailable

logger = logging.getLogger("brie.worker")
_AGAIN_SECONDS = 1.0
_T = TypeVar("_T")


async def unbroken(ask: Coroutine[Any, Any, _T]) -> _T:
    """What `ask` returns; whoever is cancelled meanwhile still waits for its end.

    A transaction that is cut in two takes its connection with it, and may leave SQLite locked for everybody.
    """
    task = asyncio.create_task(ask)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # nobody is left to be told
        raise


class Patience:
    """One worker's."""

    def __init__(self, settle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._missed_at: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the database has answered for a while: others then had the time to renew what is theirs."""
        return self._missed_at is None or self._clock() - self._missed_at > self._settle_seconds

    def missed(self, error: BrieError) -> None:
        """The database did not answer just now."""
        logger.warning("%s", error.message)
        self._missed_at = self._clock()

    async def answered(
        self, ask: Callable[[], Coroutine[Any, Any, _T]], passing: tuple[type[BrieError], ...] = (DatabaseUnavailable,)
    ) -> _T:
        """What `ask` returns, asked again as long as the database is away, or it fails by another of `passing`."""
        while True:
            try:
                return await unbroken(ask())
            except passing as error:
                self.missed(error)
                await asyncio.sleep(_AGAIN_SECONDS)
