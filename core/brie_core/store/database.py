"""Opens the database and brings its schema up to date. It knows tables and transactions, not what rows mean.

SQLite in WAL mode by default, anything SQLAlchemy speaks by URL. Reads and writes are separate: a write takes the
writer's place at once (BEGIN IMMEDIATE), so that it can wait for it instead of failing half way.
"""

import asyncio
import fcntl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    event,
    make_url,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from brie_core.errors import BadConfiguration
from brie_core.settings import Settings

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("status", String(20), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("result", JSON, nullable=False),
    Column("error", JSON),
    Column("created_at", Integer, nullable=False),
    Column("finished_at", Integer),
    Column("attempt", Integer, nullable=False),
    Column("events_offset", Integer, nullable=False),
    Column("lease_owner", String(128)),
    Column("lease_token", Integer, nullable=False),
    Column("lease_expires_at", Float, nullable=False),
    Index("ix_jobs_kind_id", "kind", "id"),
    Index("ix_jobs_status", "status", "id"),
)

events = Table(
    "events",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("level", String(8), nullable=False),
    Column("type", String(8), nullable=False),
    Column("message", Text, nullable=False),
    Column("data", JSON, nullable=False),
    UniqueConstraint("job_id", "seq", name="uq_events_job_seq"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_id", String(64), ForeignKey("jobs.id"), nullable=False),
    Column("step", Integer, nullable=False),
    Column("model", String(512), nullable=False),
    Column("version", String(64), nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("job_id", "step", name="uq_checkpoints_job_step"),
)

files = Table(
    "files",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("created_at", Integer, nullable=False),
    Column("expires_at", Integer),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", String(512), primary_key=True),
    Column("version", String(64), nullable=False),
    Column("job_id", String(64)),
    Column("created_at", Integer, nullable=False),
    Index("ix_aliases_version", "version"),
)

responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("created_at", Integer, nullable=False),
    Column("bytes", Integer, nullable=False),
    Column("response", Text, nullable=False),
    Column("context", Text, nullable=False),
    Index("ix_responses_age", "created_at", "id", "bytes"),
)


_MOST_CONNECTIONS = 8
"""All of them are kept: to open one, with its thread and its pragmas, takes longer than ten look-ups."""


class Database:
    """One open database."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._readers = engine
        self._writers = engine.execution_options(brie_write=True)

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of the rows."""
        async with self._readers.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: committed as a whole at the end of the block, or not at all."""
        async with self._writers.begin() as connection:
            yield connection

    async def aclose(self) -> None:
        """Close all connections."""
        await self._readers.dispose()


async def open_database(settings: Settings) -> Database:
    """Migrate the settings' database if need be, and open it; raises BadConfiguration on an unknown schema."""
    settings.home.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(_migrate, settings)
    return Database(_engine(settings.sqlalchemy_url))


def _engine(url: str) -> AsyncEngine:
    engine = create_async_engine(url, pool_size=_MOST_CONNECTIONS, max_overflow=0)
    if make_url(url).get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver must not open transactions of its own; _begin_sqlite does
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    write = connection.get_execution_options().get("brie_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _migrate(settings: Settings) -> None:
    with _one_at_a_time(settings.home / "migrate.lock"):
        asyncio.run(_upgrade(settings.sqlalchemy_url))


async def _upgrade(url: str) -> None:
    engine = _engine(url)
    try:
        async with engine.connect() as connection:  # a read: another process may be stuck holding the lock to write
            if await connection.run_sync(_is_current):
                return
        async with engine.execution_options(brie_write=True).begin() as connection:
            await connection.run_sync(_upgrade_connection)
    finally:
        await engine.dispose()


def _is_current(connection: Any) -> bool:
    script, current = _revisions(connection, _config(connection))
    return bool(current == script.get_current_head())


def _upgrade_connection(connection: Any) -> None:
    from alembic import command

    config = _config(connection)
    script, current = _revisions(connection, config)
    if current is not None and current not in {revision.revision for revision in script.walk_revisions()}:
        raise BadConfiguration(f"The database is at schema {current}, which a newer Brie made: update Brie.")
    command.upgrade(config, "head")


def _revisions(connection: Any, config: Any) -> tuple[Any, str | None]:
    """All that there are, and the one that the database is at."""
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config), MigrationContext.configure(connection).get_current_revision()


def _config(connection: Any) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """API and worker start together; only one of them may migrate."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
