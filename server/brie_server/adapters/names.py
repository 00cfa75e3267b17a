"""What names point at, by the database or, while it is away, as it was last read. It knows aliases, and no engine.

A name that was never read is not guessed: whoever asks for it is told that the database is away.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from brie_core.errors import DatabaseUnavailable, NotFound
from brie_core.store.aliases import Alias, AliasStore

logger = logging.getLogger("brie.api")
_PATIENCE_SECONDS = 2.0
"""How long a name that is known waits for the database."""
_AGAIN_SECONDS = 1.0
"""How long after it was away known names do not wait for it."""
_MOST = 10_000


class Names:
    """The names that this server has read."""

    def __init__(self, aliases: AliasStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._aliases = aliases
        self._clock = clock
        self._last_read: dict[str, str] = {}
        self._away_at: float | None = None

    async def version_of(self, name: str) -> str:
        """The version that `name` points at; raises NotFound, and DatabaseUnavailable for one that is not known."""
        known = self._last_read.get(name)
        if known is not None and self._away_at is not None and self._clock() - self._away_at < _AGAIN_SECONDS:
            return known
        asking = asyncio.create_task(self._aliases.get(name))
        asking.add_done_callback(_take_note)  # to its end, even for nobody: cut off, it would cost its connection
        await asyncio.wait({asking}, timeout=None if known is None else _PATIENCE_SECONDS)
        if not asking.done() and known is not None:
            return self._from_memory(name, known, "it does not answer")
        try:
            return self._read(asking.result())
        except NotFound:
            self._last_read.pop(name, None)
            raise
        except DatabaseUnavailable as error:
            if known is None:
                raise
            return self._from_memory(name, known, error.message)

    def _read(self, alias: Alias) -> str:
        self._away_at = None
        self._last_read.pop(alias.name, None)
        self._last_read[alias.name] = alias.version
        if len(self._last_read) > _MOST:
            del self._last_read[next(iter(self._last_read))]
        return alias.version

    def _from_memory(self, name: str, version: str, why: str) -> str:
        self._away_at = self._clock()
        logger.warning("%r is answered by version %s, as last read: %s", name, version[:12], why)
        return version


def _take_note(asked: "asyncio.Task[Alias]") -> None:
    """Nobody may be left to be told."""
    if not asked.cancelled():
        asked.exception()
