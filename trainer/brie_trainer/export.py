"""Export jobs as a worker sees them: an adapter version and its base in, verified files out. It converts nothing."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.evaluations import newest_evaluation
from brie_core.store.job_store import Change, JobStore
from brie_core.store.jobs import Job, JobStatus, NewEvent
from brie_core.weights.base_model import BaseModel
from brie_trainer.evaluating import evaluated_section
from brie_trainer.kind import check_base, failure


class ExportKind:
    """Export jobs: an adapter version and its base in, verified files out."""

    module = "brie_convert.run"
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, settings: Settings, base: BaseModel, adapters: AdapterStore, jobs: JobStore) -> None:
        self._settings = settings
        self._base = base
        self._adapters = adapters
        self._jobs = jobs

    async def prepare(self, job: Job, folder: Path) -> None:
        """Write job.json, after reading the adapter version whole."""
        check_base(job, self._base)
        adapter, rows = None, None
        if job.spec["version"] is not None:
            version = self._adapters.open(job.spec["version"])
            await asyncio.to_thread(self._adapters.verify, version, self._base)
            evaluation = await self._evaluation_of(version.digest)
            adapter = {"version": version.digest, "folder": str(version.folder), "evaluation": evaluation}
            rows = training_rows(version.manifest, self._settings.home)
        contract = {
            "model": job.spec["model"],
            "base": {"id": self._base.id, "folder": str(self._base.folder), "digest": self._base.digest},
            "adapter": adapter,
            "format": job.spec.get("format", "gguf"),
            "quantization": job.spec["quantization"],
            "dtype": job.spec.get("dtype"),
            "rows": None if rows is None else str(rows),
            "output": str(self._settings.home / "exports" / job.id),
        }
        (folder / "job.json").write_text(json.dumps(contract, indent=2))

    async def _evaluation_of(self, version: str) -> str | None:
        """The model card's section on the newest evaluation of exactly this version; None if there is none."""
        job = await newest_evaluation(self._jobs, version)
        if job is None:
            return None
        return await asyncio.to_thread(evaluated_section, job, version, self._settings.home)

    async def change(self, job: Job, folder: Path, event: Mapping[str, Any]) -> Change:
        """Progress and result go into the row; the files are in their place already."""
        match event["type"]:
            case "progress":
                message = NewEvent(message=event["message"])
                return Change(events=[message], result={"progress": event["fraction"], "message": event["message"]})
            case "result":
                return Change(
                    result={"files": event["files"], "manifest": event["manifest"], "progress": 1.0, "message": None},
                    events=[NewEvent(message="The export has successfully completed")],
                    status=JobStatus.SUCCEEDED,
                )
            case _:
                return failure(event)


def training_rows(manifest: Mapping[str, Any], home: Path) -> Path | None:
    """The file that the adapter was trained on, by its brie.json, for calibration; None if it is not here any more."""
    file_id = ((manifest.get("datasets") or {}).get("training_file") or {}).get("file_id")
    if not isinstance(file_id, str) or Path(file_id).name != file_id:
        return None
    file = home / "files" / file_id
    return file if file.is_file() else None
