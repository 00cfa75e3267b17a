"""PostgreSQL as people have it: addresses as they are written, schemas that others made, several starting at once."""

import asyncio
import re
import sys
from pathlib import Path

import pytest

from brie_core.errors import BadConfiguration, DatabaseUnavailable
from brie_core.settings import Settings
from brie_core.store.database import exclusive
from brie_core.store.job_store import Change, JobStore
from brie_core.store.jobs import JobKind, JobStatus, NewEvent
from brie_core.store.postgresql import read_address
from brie_core.store.schema import migrate, open_database
from postgres_cluster import PostgresCluster


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
async def test_an_address_works_as_people_write_it(scheme: str, postgres: PostgresCluster, tmp_path: Path) -> None:
    url = postgres.url("brie_1").replace("postgresql", scheme) + "?sslmode=prefer&connect_timeout=3&keepalives=1"
    url += "&application_name=mine&channel_binding=prefer"
    database = await open_database(Settings(home=tmp_path, database_url=url))
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SHOW application_name")).scalar_one() == "mine"
        assert (await connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout")).scalar_one() == "15s"
    await database.aclose()


async def test_a_socket_is_an_address_too(postgres: PostgresCluster, tmp_path: Path) -> None:
    url = f"postgresql:///brie_1?host={postgres.folder}&port={postgres.port}&user=brie"
    await (await open_database(Settings(home=tmp_path, database_url=url))).aclose()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://h/d", "write postgresql://"),
        ("postgresql://h/d?channel_binding=require", "channel_binding"),
        ("postgresql://h/d?connect_timeout=soon", "cannot be read"),
        ("mysql://h/d", "PostgreSQL and SQLite"),
        ("nonsense", "cannot be used"),
    ],
)
async def test_an_address_that_cannot_be_used_is_refused_in_words(url: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=re.escape(said)):
        await open_database(Settings(home=tmp_path, database_url=url))


async def test_a_missing_driver_is_told_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(BadConfiguration, match=r"brie-llm\[postgres\]"):
        await open_database(Settings(home=tmp_path, database_url="postgresql://h/d"))


def test_the_deadline_for_connecting_is_the_addresss_own() -> None:
    assert read_address("postgres://h/d?connect_timeout=3").connect_seconds == 3
    assert read_address("postgres://h/d").dsn == "postgresql://h/d"


async def test_a_database_that_is_not_there_is_not_waited_for(postgres: PostgresCluster, tmp_path: Path) -> None:
    async with asyncio.timeout(20):
        with pytest.raises(BadConfiguration, match="does not exist"):
            await open_database(Settings(home=tmp_path, database_url=postgres.url("nowhere")))


async def test_one_that_is_away_is_waited_for_and_then_told(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="cannot be reached"):
        await open_database(Settings(home=tmp_path, database_url="postgresql://127.0.0.1:1/d"), patience=0.1)


async def test_many_that_start_at_once_migrate_it_once(postgres: PostgresCluster, tmp_path: Path) -> None:
    url = postgres.url(postgres.new_database())
    homes = [tmp_path / str(number) for number in range(6)]  # no lock of files could help them
    await asyncio.gather(*(asyncio.to_thread(migrate, _made(home, url)) for home in homes))
    database = await open_database(_made(homes[0], url))
    assert await JobStore(database).list_active() == []
    await database.aclose()


async def test_a_newer_schema_and_a_strangers_tables_are_refused(postgres: PostgresCluster, tmp_path: Path) -> None:
    newer, strange = postgres.new_database("brie_1"), postgres.new_database()
    postgres.execute("UPDATE alembic_version SET version_num = '9999'", newer)
    with pytest.raises(BadConfiguration, match=r"9999.*newer Brie"):
        await open_database(Settings(home=tmp_path, database_url=postgres.url(newer)))
    postgres.execute("CREATE TABLE jobs (id int)", strange)
    with pytest.raises(BadConfiguration, match="tables named jobs"):
        await open_database(Settings(home=tmp_path, database_url=postgres.url(strange)))


async def test_who_may_not_make_tables_is_told_so(postgres: PostgresCluster, tmp_path: Path) -> None:
    name = postgres.new_database()
    postgres.execute("CREATE ROLE guest LOGIN")
    with pytest.raises(BadConfiguration, match="permission denied for schema public"):
        url = postgres.url(name).replace("brie@", "guest@")
        await open_database(Settings(home=tmp_path, database_url=url))


async def test_a_change_whose_commit_was_not_answered_is_made_once(database_url: str, tmp_path: Path) -> None:
    database = await open_database(Settings(home=tmp_path, database_url=database_url))
    store = JobStore(database)
    await store.create(JobKind.FINE_TUNE, {}, JobStatus.QUEUED, [])
    claimed = await store.claim("w", JobKind.FINE_TUNE, (JobStatus.QUEUED,), 10)
    assert claimed is not None
    begun = Change(status=JobStatus.RUNNING, attempt=1, events=[NewEvent(message="started")])
    done = Change(status=JobStatus.SUCCEEDED, events=[NewEvent(message="done")])
    for change in (begun, begun, done, done):
        job = await store.write(claimed[0], change)
    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert [event.message for event in await store.events(job.id, limit=10)] == ["done", "started"]
    await database.aclose()


async def test_nothing_waits_for_ever_for_another_transaction(
    postgres: PostgresCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("brie_core.store.database.COMMAND_SECONDS", 1.0)
    settings = Settings(home=tmp_path, database_url=postgres.url(postgres.new_database("brie_1")))
    database = await open_database(settings)
    async with database.write() as first:
        await exclusive(first, "aliases")
        with pytest.raises(DatabaseUnavailable):
            async with asyncio.timeout(10), database.write() as second:
                await exclusive(second, "aliases")
    async with database.write() as third:
        await exclusive(third, "aliases")
    await database.aclose()


def _made(home: Path, url: str) -> Settings:
    home.mkdir(exist_ok=True)
    return Settings(home=home, database_url=url)
