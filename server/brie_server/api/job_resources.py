"""What all resources that are jobs have alike: pages, events, and the files that they left. It knows no kind."""

import shutil
from pathlib import Path
from typing import Annotated, TypeVar

from litestar.params import QueryParameter

from brie_core.durable import remove_folder
from brie_core.errors import NotFound
from brie_core.store.jobs import Event, Job, JobStatus
from brie_core.wire import EventObject, ExportedFile

Limit = Annotated[int, QueryParameter(ge=1, le=1000)]
"""Jobs or events in a page."""
_EventT = TypeVar("_EventT", bound=EventObject)


def shown_event(event: Event, shape: type[_EventT]) -> _EventT:
    """As its kind of job has it."""
    return shape(
        id=event.id,
        object=shape.model_fields["object"].default,  # said, because a stream leaves out what nobody said
        created_at=event.created_at,
        level=event.level,
        message=event.message,
        type=event.type,
        data=dict(event.data),
    )


def file_of(job: Job, filename: str | None, place: Path) -> tuple[Path, ExportedFile]:
    """A file of the job's own list, the first by default, below `place`: what a caller names is never a path."""
    kind, files = job.kind.value, [ExportedFile(**entry) for entry in job.result.get("files", [])]
    if job.status is not JobStatus.SUCCEEDED or not files:
        raise NotFound(
            f"{kind.capitalize()} {job.id} is {job.status}: there is no file to download.", code=f"{kind}_not_ready"
        )
    file = next((each for each in files if filename in (None, each.filename)), None)
    if file is None:
        names = ", ".join(each.filename for each in files)
        raise NotFound(
            f"{kind.capitalize()} {job.id} has no such file; it has {names}.", param="filename", code="file_not_found"
        )
    path = place / job.id / Path(file.filename).name
    if not path.is_file():
        raise NotFound(f"The file of {kind} {job.id} was removed from disk.", code=f"{kind}_file_missing")
    return path, file


def remove_files(job_id: str, place: Path, home: Path) -> None:
    """Take away what a job left below `place`, and its own folder."""
    remove_folder(place / job_id, home / "tmp")
    shutil.rmtree(home / "jobs" / job_id, ignore_errors=True)
