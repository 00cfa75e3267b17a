"""Killed, frozen, paused, moved: a job ends with the adapter it would have had, bit for bit, and its story has no gap.

KILLS=20 python -m pytest tests/end_to_end/test_survival.py
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob

from brie_processes import BrieProcesses

KILLS = int(os.environ.get("KILLS", "3"))
ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"Say {i}"},
            {"role": "assistant", "content": f"Here is {i}, gladly. " * 3},
        ]
    }
    for i in range(40)
]


@pytest.fixture
def home(tiny_model: Path, tmp_path: Path) -> Iterator[BrieProcesses]:
    processes = BrieProcesses(tmp_path / "home", tiny_model)
    yield processes
    processes.stop_all()


def start_job(client: OpenAI, folder: Path, *, epochs: int = 25, rows: Any = ROWS, **more: Any) -> FineTuningJob:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with file.open("rb") as stream:
        file_id = client.files.create(file=stream, purpose="fine-tune").id
    hyperparameters: Any = {"n_epochs": epochs, "batch_size": 4}
    return client.fine_tuning.jobs.create(
        model="tiny", training_file=file_id, seed=1, hyperparameters=hyperparameters, **more
    )


def ended(client: OpenAI, job: FineTuningJob, seconds: float = 300) -> FineTuningJob:
    return reached(client, job, "succeeded", "failed", "cancelled", seconds=seconds)


def reached(client: OpenAI, job: FineTuningJob, *statuses: str, seconds: float = 60) -> FineTuningJob:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        now = client.fine_tuning.jobs.retrieve(job.id)
        if now.status in statuses:
            return now
        time.sleep(0.05)
    raise TimeoutError(now.status)


def version(client: OpenAI, job: FineTuningJob) -> str:
    """The digest of what the job made: of its base, its config and its tensors, and of nothing else."""
    return str(client.models.retrieve(job.fine_tuned_model or "").model_dump()["root"])


def last_step(client: OpenAI, job: FineTuningJob) -> int:
    data = [event.data for event in client.fine_tuning.jobs.list_events(job.id, limit=20).data]
    return max((int(each["step"]) for each in data if isinstance(each, dict) and "step" in each), default=0)


def stepped(client: OpenAI, job: FineTuningJob, step: int) -> None:
    deadline = time.monotonic() + 90
    while last_step(client, job) < step:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def training(home: Path) -> list[psutil.Process]:
    found = [(process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    return [process for process, line in found if "brie_trainer.run" in line and str(home) in line[-1]]


def gapless(home: Path, job_id: str) -> bool:
    with sqlite3.connect(home / "brie.sqlite3") as database:
        seqs = [seq for (seq,) in database.execute("SELECT seq FROM events WHERE job_id = ? ORDER BY seq", (job_id,))]
    database.close()
    return seqs == list(range(1, len(seqs) + 1))


def freeze_worker(home: BrieProcesses) -> None:
    """Outside of a transaction: SQLite has one lock to write, and whoever is frozen with it stops everybody."""
    while True:
        home.send("brie_trainer", signal.SIGSTOP)
        with closing(sqlite3.connect(home.home / "brie.sqlite3", timeout=1, isolation_level=None)) as database:
            try:
                database.execute("BEGIN IMMEDIATE").execute("ROLLBACK")
                return
            except sqlite3.OperationalError:
                home.send("brie_trainer", signal.SIGCONT)
                time.sleep(0.1)


@pytest.mark.timeout(1800)
def test_killed_at_random_moments_a_job_makes_the_adapter_it_would_have_made(
    home: BrieProcesses, tmp_path: Path
) -> None:
    client = home.start("brie_server", "brie_trainer").client()
    undisturbed = ended(client, start_job(client, tmp_path))
    assert undisturbed.status == "succeeded", undisturbed.error
    job, moments = start_job(client, tmp_path), random.Random(7)
    for number in range(KILLS):
        reached(client, job, "running")
        before = last_step(client, job)
        if moments.random() < 0.8:
            stepped(client, job, before + moments.randint(0, 25))
        time.sleep(moments.random())
        if client.fine_tuning.jobs.retrieve(job.id).status != "running":
            break
        if number % 2:
            home.kill("brie_trainer")
            home.start("brie_trainer")
        else:
            for process in training(home.home):
                process.kill()
    done = ended(client, job)
    assert done.status == "succeeded", (done.error, home.log("brie_trainer")[-2000:])
    assert version(client, done) == version(client, undisturbed)
    assert gapless(home.home, job.id)
    told = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)]
    assert told.count("The job has successfully completed") == 1


@pytest.mark.timeout(600)
def test_paused_moved_to_another_home_and_resumed_it_is_the_same_adapter(
    home: BrieProcesses, tiny_model: Path, tmp_path: Path
) -> None:
    client = home.start("brie_server", "brie_trainer").client()
    undisturbed = ended(client, start_job(client, tmp_path))
    job = start_job(client, tmp_path)
    stepped(client, job, 60)
    began = time.monotonic()
    assert client.fine_tuning.jobs.pause(job.id).status in {"pausing", "paused"}
    reached(client, job, "paused", seconds=20)
    assert time.monotonic() - began < 5
    assert not training(home.home)
    other = BrieProcesses(tmp_path / "other", tiny_model)
    try:
        there = other.start("brie_server", "brie_trainer").client()
        shutil.copytree(home.home / "jobs" / job.id, other.home / "jobs" / job.id)
        assert there.fine_tuning.jobs.resume(job.id).status == "queued"
        moved = ended(there, job)
        assert moved.status == "succeeded", moved.error
        told = [event.message for event in there.fine_tuning.jobs.list_events(job.id, limit=1000)]
        assert any(message.startswith("Resumed from step") for message in told)
        assert version(there, moved) == version(client, undisturbed)
    finally:
        other.stop_all()
    assert client.fine_tuning.jobs.resume(job.id).status == "queued"
    assert version(client, ended(client, job)) == version(client, undisturbed)


@pytest.mark.timeout(600)
def test_a_worker_frozen_past_its_lease_writes_nothing_when_it_thaws(home: BrieProcesses, tmp_path: Path) -> None:
    client = home.start("brie_server", "brie_trainer").client()
    job = start_job(client, tmp_path)
    stepped(client, job, 10)
    freeze_worker(home)
    try:
        home.start_another_worker()
        done = ended(client, job, seconds=500)
        assert done.status == "succeeded", done.error
        told = [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)]
    finally:
        home.send("brie_trainer", signal.SIGCONT)
    time.sleep(3)
    assert [event.id for event in client.fine_tuning.jobs.list_events(job.id, limit=1000)] == told
    assert gapless(home.home, job.id)


@pytest.mark.timeout(600)
def test_a_cancelled_job_is_over_at_once(home: BrieProcesses, tmp_path: Path) -> None:
    client = home.start("brie_server", "brie_trainer").client()
    for _ in range(KILLS):
        job = start_job(client, tmp_path, epochs=50)
        stepped(client, job, 3)
        began = time.monotonic()
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        while training(home.home):
            time.sleep(0.02)
        assert time.monotonic() - began < 4  # a second on a quiet machine (docs/log.md)
