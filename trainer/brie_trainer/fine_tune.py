"""Fine-tuning jobs as a worker sees them: data in, adapter versions and their names out. It trains nothing itself."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

from brie_core.durable import link_file, write_file
from brie_core.errors import InvalidAdapter, InvalidDataset, NotFound
from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.files import FileStore
from brie_core.store.job_folder import describe_job
from brie_core.store.job_store import Change, NewCheckpoint
from brie_core.store.jobs import Job, JobStatus, NewEvent
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_trainer.curve import svg
from brie_trainer.data.dataset import FILE_PARAMS, FileParam
from brie_trainer.data.report import DataReport
from brie_trainer.data.validation import check_files
from brie_trainer.kind import check_base
from brie_trainer.results import step_metrics
from brie_trainer.told import change_of

_KEPT_CHECKPOINTS = 2


class FineTuneKind:
    """Fine-tuning jobs: data in, adapter versions out."""

    module = "brie_trainer.run"
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(self, settings: Settings, base: BaseModel, files: FileStore, adapters: AdapterStore) -> None:
        self._settings = settings
        self._base = base
        self._files = files
        self._adapters = adapters

    def data_folder(self, job: Job) -> Path:
        """Where the job keeps its own links to its data."""
        return self._settings.home / "jobs" / job.id / "data"

    async def keep_data(self, job: Job) -> dict[FileParam, Path]:
        """Link the job's files into its folder, so that deleting them elsewhere does not stop it.

        The spec lies there, too: with it the folder is all that another BRIE_HOME needs to go on.
        """
        folder = self.data_folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        describe_job(folder.parent, job)
        kept: dict[FileParam, Path] = {}
        for param in FILE_PARAMS:
            if (file_id := job.spec[param]) is not None:
                kept[param] = folder / f"{param}.jsonl"
                if not kept[param].is_file():
                    link_file(await self._stored(file_id, param), kept[param])
        return kept

    async def validate(self, job: Job) -> Change:
        """Read and tokenise every row; raises InvalidDataset with the first that cannot be trained on."""
        kept = await self.keep_data(job)
        report = await asyncio.to_thread(self._check, job, kept)
        warnings = [NewEvent(message=each.message, level="warn") for each in report.findings if each.level == "warn"]
        validated = NewEvent(message="Files validated, moving job to queued state")
        return Change(status=JobStatus.QUEUED, events=[*warnings, validated], result={"data": report.as_json()})

    def _check(self, job: Job, kept: Mapping[FileParam, Path]) -> DataReport:
        limit = min(job.spec["brie"]["max_length"] or sys.maxsize, self._base.context_length)
        return check_files(
            kept["training_file"],
            kept.get("validation_file"),
            Tokenizer(self._base.folder),
            job.spec["method"],
            limit,
            self._settings.min_examples,
        )

    async def prepare(self, job: Job, folder: Path) -> None:
        """Write job.json, with the data beside it and the earlier attempts to resume from."""
        check_base(job, self._base)
        kept = await self.keep_data(job)
        earlier = sorted((p for p in folder.parent.iterdir() if p != folder), key=lambda p: int(p.name), reverse=True)
        contract = {
            "job_id": job.id,
            "base": {"id": self._base.id, "folder": str(self._base.folder), "digest": self._base.digest},
            "spec": dict(job.spec),
            "device": self._settings.device_type,
            "dtype": self._settings.dtype,
            "earlier": [str(path) for path in earlier],
            "from_adapter": self._from_adapter(job),
            "training_file": str(kept["training_file"]),
            "validation_file": str(kept["validation_file"]) if "validation_file" in kept else None,
        }
        (folder / "job.json").write_text(json.dumps(contract, indent=2))

    async def change(self, job: Job, folder: Path, event: Mapping[str, Any]) -> Change:
        """Messages and metrics become events, checkpoints and results become published versions with their names."""
        match event["type"]:
            case "checkpoint":
                return await self._checkpoint(job, folder, event)
            case "result" if not job.spec["brie"]["dry_run"]:
                return await self._result(job, folder, event)
            case _:
                return change_of(event)

    async def _checkpoint(self, job: Job, folder: Path, event: Mapping[str, Any]) -> Change:
        """Publish a checkpoint, name it, and let go of those that no attempt will go on from."""
        step = event["step"]
        best = step if event["best"] else job.result.get("best_step")
        progress = {"best_step": best, "crashes": 0}
        await asyncio.to_thread(_draw, folder.parent.parent, event["provenance"]["history"], best)
        try:
            version = await self._publish(folder / "checkpoints" / f"checkpoint-{step}", event["provenance"])
        except (InvalidAdapter, OSError) as error:  # learnt nothing, diverged, or the disk is full: the run goes on
            told = NewEvent(message=f"Checkpoint at step {step} is not served: {error}", level="warn")
            return Change(events=[told], result=progress)
        _keep(folder.parent, job.spec["brie"]["save_total_limit"] or _KEPT_CHECKPOINTS, best)
        checkpoint = NewCheckpoint(
            step=step,
            model=f"{model_name(job)}:ckpt-step-{step}",
            version=version,
            metrics={name: value for name, value in event["metrics"].items() if name != "total_steps"},
        )
        told = NewEvent(message=f"Checkpoint created at step {step}")
        return Change(checkpoints=[checkpoint], events=[told], result=progress)

    async def _result(self, job: Job, folder: Path, event: Mapping[str, Any]) -> Change:
        provenance = event["provenance"]
        version = await self._publish(_checkpoint_at(folder.parent, event["step"]), provenance)
        metrics = await self._files.save(
            _once(step_metrics(provenance["history"])), filename="step_metrics.csv", purpose="fine-tune-results"
        )
        best = job.result.get("best_step")
        await asyncio.to_thread(_draw, folder.parent.parent, provenance["history"], best)
        name = model_name(job)
        names = [name, *([job.spec["suffix"]] if job.spec["suffix"] else [])]
        return Change(
            aliases=dict.fromkeys(names, version),
            events=[
                NewEvent(message=f"New fine-tuned model created: {name}"),
                NewEvent(message="The job has successfully completed"),
            ],
            result={
                "fine_tuned_model": name,
                "version": version,
                "trained_tokens": event["trained_tokens"],
                "result_files": [metrics.id],
            },
            status=JobStatus.SUCCEEDED,
        )

    async def _publish(self, checkpoint: Path, provenance: Mapping[str, Any]) -> str:
        """The digest of the version that `checkpoint` has become."""
        version = await asyncio.to_thread(self._adapters.publish, checkpoint, self._base, provenance)
        return version.digest

    def _from_adapter(self, job: Job) -> str | None:
        """Raises InvalidAdapter for one of another base, or damaged on disk."""
        digest = job.spec.get("from_version")
        if digest is None:
            return None
        version = self._adapters.open(digest)
        self._adapters.verify(version, self._base)
        return str(version.folder)

    async def _stored(self, file_id: str, param: str) -> Path:
        try:
            return (await self._files.get(file_id)).path
        except NotFound as error:
            raise InvalidDataset(error.message, param=param, code=f"invalid_{param}") from error


def model_name(job: Job) -> str:
    """OpenAI's name of a job's model: ft:<base>:<organisation>:<suffix>:<id>."""
    return f"ft:{job.spec['model']}:brie:{job.spec['suffix'] or ''}:{job.id[-8:]}"


def _draw(folder: Path, history: Sequence[Mapping[str, Any]], best: int | None) -> None:
    """The loss curve so far; a disk too full for a picture does not end a job."""
    with suppress(OSError):
        write_file(folder / "loss.svg", svg(history, best_step=best).encode())


def _keep(attempts: Path, number: int, best: int | None) -> None:
    """Of all attempts' checkpoints keep the newest and the best; the child removes none, not knowing what is told."""
    found = sorted(attempts.glob("*/checkpoints/checkpoint-*"), key=_step_of, reverse=True)
    for checkpoint in found[number:]:
        if _step_of(checkpoint) != best:
            shutil.rmtree(checkpoint, ignore_errors=True)


def _checkpoint_at(attempts: Path, step: int) -> Path:
    """Of the newest attempt that has one."""
    found = attempts.glob(f"*/checkpoints/checkpoint-{step}")
    return max(found, key=lambda checkpoint: int(checkpoint.parent.parent.name))


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
