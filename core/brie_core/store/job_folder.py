"""What a job's folder says of its job, so that it can go on in another BRIE_HOME. It knows files, no rows.

jobs/<id>/
  job.json       id, creation and spec: with the data and the attempts beside it, all that is needed to go on
  data/          the job's own links to its files
  attempts/<n>/  events, checkpoints and log of each attempt
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brie_core.durable import write_file
from brie_core.errors import InvalidRequest, NotFound
from brie_core.store.jobs import Job

_FILE = "job.json"
_ID = re.compile(r"[a-z]+-[A-Za-z0-9]{8,48}")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFolder:
    """A job as its folder tells it."""

    id: str
    spec: Mapping[str, Any]
    created_at: int
    attempts: int
    """The number of the last attempt."""


def describe_job(folder: Path, job: Job) -> None:
    """Write into a job's `folder` what the job is, unless it is there."""
    if not (folder / _FILE).is_file():
        told = {"id": job.id, "created_at": job.created_at, "spec": dict(job.spec)}
        write_file(folder / _FILE, json.dumps(told, indent=2).encode())


def read_job_folder(jobs: Path, job_id: str) -> JobFolder:
    """The job whose folder stands in `jobs` under its id; raises NotFound, and InvalidRequest for a broken one."""
    folder = jobs / job_id
    if not _ID.fullmatch(job_id) or not (folder / _FILE).is_file():
        raise NotFound(f"There is no job {job_id!r}.", param="job_id", code="job_not_found")
    try:
        told = json.loads((folder / _FILE).read_text())
        numbers = [int(attempt.name) for attempt in folder.glob("attempts/*")]
        found = JobFolder(
            id=told["id"], spec=told["spec"], created_at=int(told["created_at"]), attempts=max(numbers, default=0)
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"The folder of job {job_id} cannot be read: {error}", code="job_folder_broken") from error
    if found.id != job_id:
        raise InvalidRequest(f"The folder {job_id} holds job {found.id}: name it so.", code="job_folder_broken")
    return found
