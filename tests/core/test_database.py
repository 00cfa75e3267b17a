"""The database: the migration makes exactly the tables the code uses, and refuses what it does not know."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import inspect

from brie_core.errors import BadConfiguration
from brie_core.settings import Settings
from brie_core.store.database import Database
from brie_core.store.schema import open_database
from brie_core.store.tables import metadata


async def test_the_migration_makes_the_tables_that_the_code_declares(database: Database) -> None:
    async with database.read() as connection:
        columns = await connection.run_sync(
            lambda sync: {
                table: {column["name"] for column in inspect(sync).get_columns(table)}
                for table in inspect(sync).get_table_names()
            }
        )
    columns.pop("alembic_version")
    assert columns == {name: set(table.columns.keys()) for name, table in metadata.tables.items()}


async def test_opening_twice_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        await (await open_database(Settings(home=tmp_path))).aclose()


async def test_it_opens_while_another_process_holds_the_lock_to_write(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    await (await open_database(settings)).aclose()
    with closing(sqlite3.connect(tmp_path / "brie.sqlite3", isolation_level=None)) as frozen:
        frozen.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(5):  # SQLite itself would wait for ten seconds, and then give up
            await (await open_database(settings)).aclose()


async def test_a_database_of_an_older_brie_keeps_its_rows(tmp_path: Path) -> None:
    await (await open_database(Settings(home=tmp_path))).aclose()
    with closing(sqlite3.connect(tmp_path / "brie.sqlite3")) as connection:
        connection.execute("DROP TABLE responses")
        connection.execute("DROP TABLE workers")
        connection.execute("ALTER TABLE jobs DROP COLUMN last_change")
        connection.execute("UPDATE alembic_version SET version_num = '0001'")
        connection.execute("INSERT INTO aliases VALUES ('kept', 'v', NULL, 1)")
        connection.commit()
    database = await open_database(Settings(home=tmp_path))
    async with database.read() as connected:
        assert (await connected.exec_driver_sql("SELECT name FROM aliases")).scalar_one() == "kept"
        assert (await connected.exec_driver_sql("SELECT count(*) FROM responses")).scalar_one() == 0
    await database.aclose()


async def test_a_database_of_a_newer_brie_is_refused(tmp_path: Path) -> None:
    await (await open_database(Settings(home=tmp_path))).aclose()
    with sqlite3.connect(tmp_path / "brie.sqlite3") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(BadConfiguration, match="newer Brie"):
        await open_database(Settings(home=tmp_path))


@pytest.mark.parametrize("database_url", [""])
async def test_sqlite_keeps_what_was_committed(database: Database) -> None:
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("PRAGMA journal_mode")).scalar_one() == "wal"
        assert (await connection.exec_driver_sql("PRAGMA synchronous")).scalar_one() == 2
