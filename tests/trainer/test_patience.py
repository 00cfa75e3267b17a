"""What a worker does while its database is away, and what it never cuts in two."""

import asyncio

import pytest

from brie_core.errors import DatabaseUnavailable, NotFound
from brie_core.store.database import Database
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import JobKind, JobStatus
from brie_trainer import patience
from brie_trainer.patience import Patience, unbroken
from clocks import Clock


async def test_a_transaction_that_is_cancelled_leaves_no_lock_behind(database: Database) -> None:
    store = JobStore(database)
    for number in range(20):
        many = [asyncio.create_task(unbroken(store.create(JobKind.EXPORT, {}, JobStatus.QUEUED, []))) for _ in range(4)]
        await asyncio.sleep(0.002 * number)
        for each in many:
            each.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        async with asyncio.timeout(5):
            await store.create(JobKind.EXPORT, {}, JobStatus.QUEUED, [])


async def test_it_asks_until_it_is_answered_and_then_lets_the_others_renew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_AGAIN_SECONDS", 0.0)
    clock, asked = Clock(), 0
    waiting = Patience(15.0, clock)

    async def ask() -> int:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise DatabaseUnavailable("away")
        return asked

    assert waiting.is_settled
    assert await waiting.answered(ask) == 3
    clock.now += 15
    assert not waiting.is_settled
    clock.now += 1
    assert waiting.is_settled


async def test_any_other_refusal_is_told_at_once() -> None:
    async def ask() -> int:
        raise NotFound("no")

    with pytest.raises(NotFound):
        await Patience(15.0).answered(ask)
