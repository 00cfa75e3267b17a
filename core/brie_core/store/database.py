"""Opens the database, and runs transactions on it. It knows engines and failures, not what rows mean.

SQLite in WAL mode by default, PostgreSQL by its address. Reads and writes are separate: on SQLite a write takes the
writer's place at once (BEGIN IMMEDIATE), so that it can wait for it instead of failing half way; on PostgreSQL writers
go side by side, and whoever reads before it writes locks the row (FOR UPDATE) or its subject (`exclusive`) first.
"""

import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy import BigInteger, Float, cast, event, extract, func, literal, make_url, select
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionLeft
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from brie_core.errors import BadConfiguration, DatabaseUnavailable, InsufficientStorage
from brie_core.store.postgresql import COMMAND_SECONDS, connector, is_passing, is_postgresql
from brie_core.store.tables import json_text

logger = logging.getLogger("brie.database")
_MOST_CONNECTIONS = 8
"""All of them are kept: to open one, with its thread and its pragmas, takes longer than ten look-ups."""
_POOL_SECONDS = 5.0
"""How long a transaction waits for one of them."""
BUSY_MS = 10_000
"""How long one waits for SQLite's only writer."""
_PASSING = ("locked", "busy", "unable to open", "I/O error", "readonly")
"""In SQLite's words: what may be otherwise the next time."""


class Database:
    """One open database. Its transactions raise DatabaseUnavailable while it is away, or busy for too long."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._readers = engine
        self._writers = engine.execution_options(brie_write=True)
        self.is_shared = engine.dialect.name == "postgresql"
        """Whether processes of other hosts may use it."""

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of the rows."""
        async with self._connected(self._readers) as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed as a whole at the end of the block, or not at all.

        If its connection breaks during the commit, DatabaseUnavailable leaves open which.
        """
        async with self._connected(self._writers) as connection, connection.begin():
            yield connection

    def now(self) -> Any:
        """Seconds since the epoch, for a statement: by the clock that all who use this database share."""
        if self.is_shared:
            return cast(extract("epoch", func.clock_timestamp()), Float)
        return time.time()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._readers.dispose()

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            for is_last in (*[False] * _MOST_CONNECTIONS, True):
                try:
                    connection = await stack.enter_async_context(engine.connect())
                    break
                except (OSError, NoConnectionLeft) as error:  # of those that are kept none is free, or one is broken
                    if is_last or isinstance(error, TimeoutError | NoConnectionLeft):
                        raise DatabaseUnavailable("The database does not answer.") from error
            yield connection


async def exclusive(connection: AsyncConnection, subject: str) -> None:
    """Until the transaction's end no other one that asks for it is at `subject`; on SQLite no other writes anyway."""
    if connection.dialect.name == "postgresql":
        number = int.from_bytes(hashlib.sha256(f"brie {subject}".encode()).digest()[:8], signed=True)
        await connection.execute(select(func.pg_advisory_xact_lock(literal(number, BigInteger))))


def create_engine(url: str, *, is_hasty: bool = True) -> AsyncEngine:
    """An engine whose failures are Brie's errors; one that `is_hasty` gives up a statement after COMMAND_SECONDS."""
    if is_postgresql(url):
        return _postgresql(url, COMMAND_SECONDS if is_hasty else None)
    try:
        name = make_url(url).get_backend_name()
        if name != "sqlite":
            raise BadConfiguration(f"BRIE_DATABASE_URL is of {name!r}: Brie works with PostgreSQL and SQLite.")
        engine = create_async_engine(url, **_pool(), connect_args={"timeout": BUSY_MS / 1000})
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise BadConfiguration(f"BRIE_DATABASE_URL cannot be used: {error}") from error
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    event.listen(engine.sync_engine, "handle_error", _sqlite_error)
    return engine


def _postgresql(url: str, command_seconds: float | None) -> AsyncEngine:
    creator = connector(url, command_seconds)
    engine = create_async_engine("postgresql+asyncpg://", **_pool(), async_creator=creator, pool_pre_ping=True)
    event.listen(engine.sync_engine, "handle_error", _postgresql_error)
    return engine


def _pool() -> dict[str, Any]:
    return {
        "pool_size": _MOST_CONNECTIONS,
        "max_overflow": 0,
        "pool_timeout": _POOL_SECONDS,
        "json_serializer": json_text,
    }


def _postgresql_error(context: Any) -> Exception | None:
    """A deadline that passed leaves a connection in an unknown state: it is thrown away."""
    error = context.original_exception
    if not is_passing(error):
        return None
    if isinstance(error, OSError):
        context.is_disconnect = True
    logger.warning("the database does not answer: %s: %s", type(error).__name__, error)
    return DatabaseUnavailable("The database does not answer.")


def _sqlite_error(context: Any) -> Exception | None:
    if not isinstance(context.sqlalchemy_exception, OperationalError):
        return None
    text = str(context.original_exception)
    if "is full" in text:
        return InsufficientStorage("The disk is full: the database could not be written. Free some space.")
    if not any(words in text for words in _PASSING):
        return None
    logger.warning("the database does not answer: %s", text)
    return DatabaseUnavailable(f"The database does not answer: {text}.")


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own; _begin_sqlite does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", f"busy_timeout={BUSY_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    write = connection.get_execution_options().get("brie_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
