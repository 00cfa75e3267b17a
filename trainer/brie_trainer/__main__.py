"""`python -m brie_trainer`: settings, base model, worker. It knows how to start a worker, not what it does."""

import asyncio
import logging
import signal
import time

from brie_core.durable import sweep
from brie_core.settings import Settings
from brie_core.start import start_service, told_in_one_line
from brie_core.store.adapters import AdapterStore
from brie_core.store.files import FileStore
from brie_core.store.job_store import JobStore
from brie_core.store.jobs import JobKind
from brie_core.store.schema import open_database
from brie_core.store.workers import WorkerStore
from brie_core.weights.base_model import BaseModel
from brie_core.weights.resolve import resolve_base_model
from brie_trainer.evaluating import EvaluationKind
from brie_trainer.export import ExportKind
from brie_trainer.fine_tune import FineTuneKind
from brie_trainer.kind import Kind
from brie_trainer.worker import Worker

_DAY = 24 * 3600


def main() -> None:
    """Work until told to stop; a setting or model that cannot be used ends the process with one line and status 2."""
    settings, base = start_service(resolve_base_model)
    with told_in_one_line():
        asyncio.run(_work(settings, base))


async def _work(settings: Settings, base: BaseModel) -> None:
    sweep(settings.home / "tmp", older_than=time.time() - _DAY)
    database = await open_database(settings)
    files, adapters = FileStore(database, settings.home), AdapterStore(settings.home)
    fine_tune = FineTuneKind(settings, base, files, adapters)
    jobs = JobStore(database)
    others: dict[JobKind, Kind] = {
        JobKind.EXPORT: ExportKind(settings, base, adapters, jobs),
        JobKind.EVALUATION: EvaluationKind(settings, base, files),
    }
    worker = Worker(settings, jobs, fine_tune, others, WorkerStore(database))
    working = asyncio.create_task(worker.run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    try:
        await working
    except asyncio.CancelledError:
        logging.getLogger("brie.worker").info("stopped")
    finally:
        await database.aclose()


if __name__ == "__main__":
    main()
