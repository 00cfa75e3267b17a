"""Two workers, many short jobs, and kill -9 of workers and of their jobs' processes: each job ends once, none is lost.

    python benchmarks/worker_drill.py --database postgresql --jobs 40 --kills 20

The workers are processes with real leases, rows and children; what the children do follows a script
(tests/scripted_worker), so that forty jobs take minutes. PostgreSQL is a throw-away server (tests/postgres_cluster).
"""

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from brie_core.settings import Settings
from brie_core.store.aliases import AliasStore
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import Job, JobKind, JobStatus, NewEvent, is_final
from brie_core.store.schema import open_database

TESTS = Path(__file__).parents[1] / "tests"
SPEC: dict[str, Any] = {
    "model": "tiny",
    "suffix": None,
    "brie": {"dry_run": False, "save_total_limit": None},
}
DONE = "The job has successfully completed"


@dataclass(slots=True)
class Drill:
    """What is killed, and by which chance."""

    settings: Settings
    model: Path
    adapter: Path
    lease_seconds: float = 15.0
    chance: random.Random = field(default_factory=lambda: random.Random(7))
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    killed: Counter[str] = field(default_factory=Counter)

    def start_worker(self) -> None:
        """One more."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BRIE_")}
        environment |= {"BRIE_HOME": str(self.settings.home), "BRIE_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        environment |= {"BRIE_DATABASE_URL": self.settings.database_url}
        environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), *sys.path])
        command = [sys.executable, str(TESTS / "scripted_worker.py"), str(self.model), str(self.adapter)]
        with (self.settings.home / "workers.log").open("ab") as log:
            worker = subprocess.Popen([*command, str(self.lease_seconds)], env=environment, stdout=log, stderr=log)
        self.workers.append(worker)

    def kill_one(self) -> bool:
        """A job's process that has told a checkpoint, or its worker, which is started again; False if none trains."""
        training = [child for worker in self.workers for child in _children(worker.pid)]
        if not training:
            return False
        child = self.chance.choice(training)
        worker = next(each for each in self.workers if each.pid == child.ppid())
        if self.killed["worker"] <= self.killed["child"]:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            self.workers.remove(worker)
            self.start_worker()
            self.killed["worker"] += 1
            return True
        if not (Path(child.cmdline()[-1]) / "events.jsonl").is_file():
            return False  # three such in a row rightly fail a job
        child.kill()
        self.killed["child"] += 1
        return True

    def stop(self) -> None:
        """All of them."""
        for worker in self.workers:
            worker.kill()
            worker.wait()


def _children(pid: int) -> list[psutil.Process]:
    try:
        children = psutil.Process(pid).children()
        return [child for child in children if "scripted_training" in child.cmdline()]
    except psutil.NoSuchProcess:
        return []


async def run(drill: Drill, num_jobs: int, num_kills: int, seconds: float) -> dict[str, Any]:
    """Do it, and say what was found; `faults` is empty if all went as it must."""
    database = await open_database(drill.settings)
    store, began = JobStore(database), time.monotonic()
    first = [NewEvent(message="Created fine-tuning job")]
    try:
        jobs = [await store.create(JobKind.FINE_TUNE, SPEC, JobStatus.QUEUED, first) for _ in range(num_jobs)]
        for _ in range(2):
            drill.start_worker()
        await _disturb(drill, num_kills, began + seconds)
        ended = await _ended(store, jobs, began + seconds)
        faults = [fault for job in ended for fault in await _faults(store, job)]
        names = {alias.name for alias in await AliasStore(database).list()}
        faults += [f"{job.id} has no model" for job in ended if job.result.get("fine_tuned_model") not in names]
    finally:
        drill.stop()
        await database.aclose()
    return {
        "jobs": num_jobs,
        "killed": dict(drill.killed),
        "attempts": sum(job.attempt for job in ended),
        "seconds": round(time.monotonic() - began, 1),
        "faults": faults,
    }


async def _disturb(drill: Drill, num_kills: int, deadline: float) -> None:
    while drill.killed.total() < num_kills and time.monotonic() < deadline:
        await asyncio.sleep(drill.chance.uniform(0.1, 1.0))
        while not drill.kill_one() and time.monotonic() < deadline:  # noqa: ASYNC110  # nobody tells of processes
            await asyncio.sleep(0.05)


async def _ended(store: JobStore, jobs: Sequence[Job], deadline: float) -> list[Job]:
    while time.monotonic() < deadline:
        found = [await store.get(job.id) for job in jobs]
        if all(is_final(job.status) for job in found):
            return found
        await asyncio.sleep(0.2)
    return [await store.get(job.id) for job in jobs]


async def _faults(store: JobStore, job: Job) -> list[str]:
    """Whatever is not as if nothing had been killed."""
    events = await store.events_since(job.id, 0, limit=1000)
    told = Counter(event.message for event in events)
    made = [message for message in told if message.startswith("Checkpoint created")]
    checks = {
        f"is {job.status}: {job.error}": job.status is JobStatus.SUCCEEDED,
        f"was told {told[DONE]} times to be done": told[DONE] == 1,
        "has gaps in its events": [event.seq for event in events] == list(range(1, len(events) + 1)),
        "told a checkpoint twice": all(told[message] == 1 for message in made),
        "told something behind its end": bool(events) and events[-1].message == DONE,
        "lost a checkpoint": len(made) == len(await store.checkpoints(job.id, limit=1000)) >= 2,
    }
    return [f"{job.id} {fault}" for fault, is_right in checks.items() if not is_right]


def main() -> None:
    """From the command line."""
    sys.path.append(str(TESTS))
    from brie_core.weights.resolve import resolve_base_model
    from postgres_cluster import PostgresCluster
    from tiny_models import write_lora, write_tiny_llama

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--jobs", type=int, default=40)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=900.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        model = write_tiny_llama(home / "tiny", resolve_base_model(Settings(home=home / "default")).folder)
        adapter = write_lora(home / "lora", model)
        cluster = PostgresCluster() if given.database == "postgresql" else None
        url = cluster.url(cluster.new_database()) if cluster else ""
        try:
            drill = Drill(Settings(home=home / "brie", database_url=url), model, adapter)
            found = asyncio.run(run(drill, given.jobs, given.kills, given.seconds))
        finally:
            if cluster:
                cluster.close()
    print(json.dumps({"database": given.database, **found}))
    sys.exit(bool(found["faults"]))


if __name__ == "__main__":
    main()
