"""Brings a database's schema up to date, once however many processes start. It knows migrations, not what rows mean."""

import asyncio
import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sqlalchemy import inspect
from sqlalchemy.exc import SQLAlchemyError

from brie_core.errors import BadConfiguration, DatabaseUnavailable
from brie_core.settings import Settings
from brie_core.store.database import Database, create_engine, exclusive
from brie_core.store.postgresql import is_postgresql, refuses_us
from brie_core.store.tables import metadata

logger = logging.getLogger("brie.database")
PATIENCE_SECONDS = 60.0
"""How long a process waits at its start for a database that does not answer: both may just have been switched on."""
_AGAIN_SECONDS = 1.0


async def open_database(settings: Settings, patience: float = PATIENCE_SECONDS) -> Database:
    """Migrate the settings' database if need be, and open it.

    Raises BadConfiguration for a schema or address that cannot be used, DatabaseUnavailable after `patience` seconds.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(migrate, settings, patience)
    return Database(create_engine(settings.sqlalchemy_url))


def migrate(settings: Settings, patience: float = PATIENCE_SECONDS) -> None:
    """The same without opening it; for a thread, or a process that runs no loop yet."""
    deadline = time.monotonic() + patience
    alone = nullcontext() if is_postgresql(settings.sqlalchemy_url) else _one_at_a_time(settings.home / "migrate.lock")
    with alone:
        while True:
            try:
                asyncio.run(_upgrade(settings.sqlalchemy_url))
                return
            except DatabaseUnavailable as error:
                if refuses_us(error):
                    raise BadConfiguration(f"{error.message} Look at BRIE_DATABASE_URL.") from error
                if time.monotonic() > deadline:
                    raise
                logger.warning("%s Waiting for it.", error.message)
                time.sleep(_AGAIN_SECONDS)


async def _upgrade(url: str) -> None:
    engine = create_engine(url, is_hasty=False)  # a migration, or waiting for another's, takes its time
    try:
        database = Database(engine)
        async with database.read() as connection:  # another process may be stuck holding the lock to write
            if await connection.run_sync(_is_current):
                return
        async with database.write() as connection:
            await exclusive(connection, "schema")
            await connection.run_sync(_upgrade_connection)
    except SQLAlchemyError as error:
        reason = getattr(error, "orig", None) or error
        raise BadConfiguration(f"The database's schema could not be brought up to date: {reason}") from error
    finally:
        await engine.dispose()


def _is_current(connection: Any) -> bool:
    script, current = _revisions(connection, _config(connection))
    return bool(current == script.get_current_head())


def _upgrade_connection(connection: Any) -> None:
    from alembic import command

    config = _config(connection)
    script, current = _revisions(connection, config)
    known = {revision.revision for revision in script.walk_revisions()}
    if current is not None and current not in known:
        raise BadConfiguration(
            f"The database is at schema {current}, and this Brie knows {', '.join(sorted(known))}: a newer Brie "
            "made it. Update Brie, or take another database."
        )
    if current is None and (foreign := sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))):
        raise BadConfiguration(
            f"The database has tables named {', '.join(foreign)}, but nothing says which Brie made them, so they "
            "cannot be brought up to date: take a database of Brie's own."
        )
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
    """API and worker start together; only one of them may migrate. SQLite is of one host, and so is this lock."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
