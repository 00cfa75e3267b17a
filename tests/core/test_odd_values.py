"""Texts and numbers that a database might not take: what people send is kept, or found not to be there."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from brie_core.errors import NotFound
from brie_core.settings import Settings
from brie_core.store.aliases import AliasStore
from brie_core.store.database import Database
from brie_core.store.files import FileStore
from brie_core.store.job_store import Change, JobStore, NewCheckpoint
from brie_core.store.jobs import JobKind, JobStatus, NewEvent
from brie_core.store.responses import ResponseStore
from brie_core.store.schema import open_database
from brie_core.store.tables import jobs
from postgres_cluster import PostgresCluster

KIND = JobKind.FINE_TUNE
ODD = ["\0", "a\0b", "\ud800", "\U0001f9c0", "x" * 10_000]


async def once(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize("odd", ODD)
async def test_a_name_that_no_row_can_have_is_not_there(odd: str, database: Database, tmp_path: Path) -> None:
    store, files = JobStore(database), FileStore(database, tmp_path)
    with pytest.raises(NotFound):
        await AliasStore(database).get(odd)
    for asked in (store.get(odd), files.get(odd), ResponseStore(database).get(odd)):
        with pytest.raises(NotFound):
            await asked
    assert await store.list(KIND, limit=5, after=odd) == []
    assert await files.list(limit=5, after=odd, purpose=odd) == []
    assert await store.events("x", limit=5, after=odd) == []


async def test_a_files_name_is_kept_as_far_as_it_can_be_written(database: Database, tmp_path: Path) -> None:
    files = FileStore(database, tmp_path)
    saved = await files.save(once(b"x"), filename="a\0b\ud800.jsonl", purpose="user_data")
    assert (await files.get(saved.id)).filename == "a\ufffdb\ufffd.jsonl"


async def test_a_job_keeps_large_numbers_odd_texts_and_no_number(database: Database) -> None:
    store = JobStore(database)
    spec = {"seed": 2**63 + 1, "metadata": {"k\0": "v\0\ud800"}}
    made = await store.create(KIND, spec, JobStatus.QUEUED, [NewEvent(message="a\0b", data={"loss": math.nan})])
    claimed = await store.claim("w", KIND, (JobStatus.QUEUED,), 10)
    assert claimed is not None
    checkpoint = NewCheckpoint(step=2**31 - 1, model="m", version="v", metrics={"train_loss": math.inf, "x": 1.5})
    await store.write(claimed[0], Change(events_offset=2**40, checkpoints=[checkpoint], result={"n": 2**70}))
    job, event = await store.get(made.id), (await store.events(made.id, limit=1))[0]
    assert (job.spec, job.events_offset, job.result) == (spec, 2**40, {"n": 2**70})
    assert (event.message, event.data) == ("a\ufffdb", {"loss": None})
    assert (await store.checkpoints(made.id, limit=1))[0].metrics == {"train_loss": None, "x": 1.5}


async def test_ids_are_sorted_by_their_characters_in_any_language(database: Database) -> None:
    """Where "aa" is a letter behind z, as it is in Danish, pages would begin at the wrong job."""
    store = JobStore(database)
    ids = [f"ftjob-00000000{tail}" for tail in ("aa", "ab", "az", "ba", "zz")]
    for job_id in reversed(ids):
        await store.adopt(job_id, KIND, {"model": "m"}, 1, 1)
    assert [job.id for job in await store.list(KIND, limit=9)] == ids[::-1]
    assert [job.id for job in await store.list(KIND, limit=9, after=ids[2])] == ids[1::-1]


async def test_a_value_of_a_wrong_type_is_our_fault_and_no_reason_to_wait(
    postgres: PostgresCluster, tmp_path: Path
) -> None:
    url = postgres.url(postgres.new_database("brie_1"))
    database = await open_database(Settings(home=tmp_path, database_url=url))
    with pytest.raises(DBAPIError):
        async with database.write() as connection:
            await connection.execute(select(jobs).where(jobs.c.created_at == "late"))
    await database.aclose()


async def test_of_many_that_adopt_one_folder_one_does(database: Database) -> None:
    adopting = (JobStore(database).adopt("ftjob-0123456789", KIND, {}, 1, 1) for _ in range(6))
    outcomes = await asyncio.gather(*adopting, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Conflict"] * 5 + ["Job"]


async def test_of_many_that_save_at_once_all_are_within_the_bound(database: Database) -> None:
    store = ResponseStore(database, most_responses=3)
    await asyncio.gather(*(store.save({"id": f"resp_{n}", "output": []}, []) for n in range(12)))
    async with database.read() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM responses")).scalar_one() == 3
