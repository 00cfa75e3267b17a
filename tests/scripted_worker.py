"""`python scripted_worker.py MODEL ADAPTER LEASE_SECONDS`: a worker whose jobs' processes follow a script.

Each attempt makes two new checkpoints and the result. All else, leases, rows and processes, is the worker's own.
"""

import asyncio
import logging
import os
import sys
import tempfile
from pathlib import Path

from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.files import FileStore
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import Job, JobKind
from brie_core.store.schema import open_database
from brie_core.store.workers import WorkerStore
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_trainer import worker as worker_module
from brie_trainer.export import ExportKind
from brie_trainer.fine_tune import FineTuneKind
from brie_trainer.worker import Worker
from scripted_training import write_script


class TwoCheckpoints(FineTuneKind):
    """Fine-tuning whose every attempt goes a little further."""

    module = "scripted_training"
    adapter: Path
    rest_seconds = 0.3

    async def prepare(self, job: Job, folder: Path) -> None:
        """No data and no base: only the script."""
        step, rest = job.attempt * 10, ("rest", self.rest_seconds)
        moves = [("checkpoint", step + 1), rest, ("checkpoint", step + 2), rest, ("result", step + 2)]
        write_script(folder, moves, self.adapter)


async def work(settings: Settings, base: BaseModel, adapter: Path) -> None:
    """Until it is ended."""
    database = await open_database(settings)
    adapters = AdapterStore(settings.home)
    kind = TwoCheckpoints(settings, base, FileStore(database, settings.home), adapters)
    kind.adapter = adapter
    jobs = JobStore(database)
    export = ExportKind(settings, base, adapters, jobs)
    await Worker(settings, jobs, kind, {JobKind.EXPORT: export}, WorkerStore(database)).run()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    model, adapter, lease_seconds = sys.argv[1:]
    worker_module.LEASE_SECONDS = float(lease_seconds)
    with tempfile.TemporaryDirectory() as folder:
        base = open_base_model("tiny", Path(model), Path(folder) / "digests.json")
    asyncio.run(work(Settings.from_environment(os.environ), base, Path(adapter)))


if __name__ == "__main__":
    main()
