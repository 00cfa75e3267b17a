"""The seeds for openai-python's own tests give things the ids that those name, and again after they were taken."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brie_core.errors import NotFound
from brie_core.store.aliases import AliasStore
from brie_core.store.database import Database
from brie_core.store.files import FileStore
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import JobKind, JobStatus
from brie_core.store.responses import ResponseStore
from compat.sdk_seeds import FILES, JOBS, MODELS, RESPONSES, seed


async def a_row() -> AsyncIterator[bytes]:
    yield b"{}\n"


@pytest.fixture
def database_url() -> str:
    """The seeds are written with SQLite."""
    return ""


async def test_what_was_deleted_or_cancelled_is_there_again(database: Database, tmp_path: Path) -> None:
    files, jobs, aliases = FileStore(database, tmp_path), JobStore(database), AliasStore(database)
    original = await files.save(a_row(), filename="rows.jsonl", purpose="fine-tune")
    await jobs.create(JobKind.FINE_TUNE, {"model": "tiny"}, JobStatus.VALIDATING_FILES, [])
    await aliases.move("original", "0" * 64, expected=None, check=lambda: None)
    responses = ResponseStore(database)
    await responses.save({"id": "resp_0", "output": []}, [])
    for _ in range(2):
        seed(tmp_path)
        for name in FILES:
            assert (await files.get(name)).path.read_bytes() == original.path.read_bytes()
            await files.delete(name)
        for name in JOBS:
            assert (await jobs.cancel(name, JobKind.FINE_TUNE)).status is JobStatus.CANCELLED
        for name in RESPONSES:
            await responses.delete(name)
        for name in MODELS:
            assert (await aliases.get(name)).version == "0" * 64
            await aliases.delete(name)
    with pytest.raises(NotFound):
        await files.get(FILES[0])
