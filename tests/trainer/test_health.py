"""A worker's health is what the register says of this host's workers."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from brie_core.settings import Settings
from brie_core.store.schema import open_database
from brie_core.store.workers import ALIVE_SECONDS, WorkerStore
from brie_trainer.health import find_fault
from brie_trainer.presence import this_worker

WORKER = this_worker("cpu", ["export"])


async def beat(settings: Settings, host: str = WORKER.host, ago: float = 0.0) -> None:
    database = await open_database(settings)
    now = database.now()
    await WorkerStore(database, lambda: now - ago).beat(replace(WORKER, host=host))
    await database.aclose()


async def test_a_worker_that_was_seen_is_healthy(settings: Settings) -> None:
    await beat(settings)
    assert await find_fault(settings) is None


async def test_one_that_fell_silent_is_not(settings: Settings) -> None:
    await beat(settings, ago=ALIVE_SECONDS + 1)
    assert await find_fault(settings) == f"no worker on {socket.gethostname()[:64]} was seen in the last 20 s"


async def test_another_hosts_worker_is_no_sign_of_ours(settings: Settings) -> None:
    await beat(settings, host="elsewhere")
    assert await find_fault(settings) is not None


async def test_before_there_is_a_database_nothing_is_healthy(tmp_path: Path) -> None:
    assert await find_fault(Settings(home=tmp_path / "nothing here")) is not None


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, database_url=database_url)
