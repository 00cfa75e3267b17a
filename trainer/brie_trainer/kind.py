"""What a worker asks of each kind of job. It knows events and changes; no lease and no process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from brie_core.errors import NotFound
from brie_core.store.job_store import Change
from brie_core.store.jobs import Job, JobStatus, NewEvent
from brie_core.weights.base_model import BaseModel


class Kind(Protocol):
    """One kind of job, as a worker sees it."""

    module: str
    """Run as `python -m module FOLDER`."""
    environment: Mapping[str, str]
    """What the child is told by environment besides the worker's own."""

    async def prepare(self, job: Job, folder: Path) -> None:
        """Fill the attempt's fresh folder; a BrieError fails the job."""
        ...

    async def change(self, job: Job, folder: Path, event: Mapping[str, Any]) -> Change:
        """What one event of the child changes; a final status in it ends the job."""
        ...


def failure(error: Mapping[str, Any]) -> Change:
    """The end of a job that cannot succeed."""
    entry = {name: error.get(name) for name in ("code", "message", "param")}
    return Change(
        status=JobStatus.FAILED,
        error=entry,
        events=[NewEvent(message=f"The job failed: {entry['message']}", level="error")],
    )


def check_base(job: Job, base: BaseModel) -> None:
    """A job is bound to the exact weights it was created for; raises NotFound."""
    if job.spec["base"]["digest"] != base.digest:
        raise NotFound(
            f"The job is for {job.spec['base']['id']} with other weights than this worker has: set BRIE_MODEL to it.",
            param="model",
            code="base_model_changed",
        )
