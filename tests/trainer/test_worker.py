"""The worker's own part: whatever goes wrong in it fails one job, never the worker."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.store.database import Database
from brie_core.store.files import FileStore
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus, is_final
from brie_core.store.workers import WorkerStore
from brie_core.weights.base_model import BaseModel
from brie_trainer.export import ExportKind, training_rows
from brie_trainer.fine_tune import FineTuneKind
from brie_trainer.worker import Worker


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def worker(database: Database, jobs: JobStore, tiny_base: BaseModel, tmp_path: Path) -> Worker:
    settings, files, adapters = Settings(home=tmp_path), FileStore(database, tmp_path), AdapterStore(tmp_path)
    fine_tune = FineTuneKind(settings, tiny_base, files, adapters)
    kinds = {JobKind.EXPORT: ExportKind(settings, tiny_base, adapters, jobs)}
    return Worker(settings, jobs, fine_tune, kinds, WorkerStore(database))


async def export_of(jobs: JobStore, base: BaseModel, version: str | None, digest: str | None = None) -> Job:
    entry = {"id": base.id, "folder": str(base.folder), "digest": digest or base.digest}
    spec = {"model": "m", "quantization": "f16", "version": version, "base": entry}
    return await jobs.create(JobKind.EXPORT, spec, JobStatus.QUEUED, [])


async def finished(jobs: JobStore, job: Job) -> Job:
    while not is_final(job.status):
        await asyncio.sleep(0.05)
        job = await jobs.get(job.id)
    return job


async def test_a_job_that_cannot_begin_fails_and_the_next_is_done(
    worker: Worker, jobs: JobStore, tiny_base: BaseModel, tmp_path: Path
) -> None:
    impossible = [
        await export_of(jobs, tiny_base, version="f" * 64),
        await export_of(jobs, tiny_base, version=None, digest="another"),
    ]
    fine = await export_of(jobs, tiny_base, version=None)
    working = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(90):
            ended = [await finished(jobs, job) for job in impossible]
            done = await finished(jobs, fine)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert [(job.error or {}).get("code") for job in ended] == ["adapter_version_not_found", "base_model_changed"]
    assert done.status is JobStatus.SUCCEEDED, done.error
    assert list((tmp_path / "exports" / done.id).glob("*.gguf"))


async def test_a_deleted_training_file_fails_the_job_by_name(
    worker: Worker, jobs: JobStore, tiny_base: BaseModel, database: Database
) -> None:
    spec: dict[str, Any] = {"model": "tiny", "training_file": "file-gone", "validation_file": None, "suffix": None}
    spec |= {"base": {"id": "tiny", "digest": tiny_base.digest}}
    job = await jobs.create(JobKind.FINE_TUNE, spec, JobStatus.VALIDATING_FILES, [])
    working = asyncio.create_task(worker.run())
    try:
        async with asyncio.timeout(20):
            ended = await finished(jobs, job)
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
    assert ended.error is not None
    assert (ended.error["code"], ended.error["param"]) == ("invalid_training_file", "training_file")
    assert await AliasStore(database).list() == []


def test_an_export_is_told_the_rows_that_its_adapter_was_trained_on(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "file-a").write_text("{}")
    (tmp_path / "secret").write_text("x")
    for file_id, found in (("file-a", tmp_path / "files" / "file-a"), ("file-b", None), ("../secret", None)):
        assert training_rows({"datasets": {"training_file": {"file_id": file_id}}}, tmp_path) == found
    assert training_rows({}, tmp_path) is None
