"""Fine-tuning jobs as a worker sees them: data in, adapter versions and their names out. It trains nothing itself."""

import asyncio
import csv
import io
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from brie_core.errors import InvalidAdapter, InvalidDataset, NotFound
from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.files import FileStore
from brie_core.store.job_store import Change, NewCheckpoint
from brie_core.store.jobs import Job, JobStatus, NewEvent
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_trainer.dataset import FILE_PARAMS, FileParam, read_conversations
from brie_trainer.kind import check_base, failure
from brie_trainer.labels import check_renders

_COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


class FineTuneKind:
    """Fine-tuning jobs: data in, adapter versions out."""

    module = "brie_trainer.run"

    def __init__(self, settings: Settings, base: BaseModel, files: FileStore, adapters: AdapterStore) -> None:
        self._settings = settings
        self._base = base
        self._files = files
        self._adapters = adapters

    def data_folder(self, job: Job) -> Path:
        """Where the job keeps its own links to its data."""
        return self._settings.home / "jobs" / job.id / "data"

    async def keep_data(self, job: Job) -> dict[FileParam, Path]:
        """Link the job's files into its folder, so that deleting them elsewhere does not stop it."""
        folder = self.data_folder(job)
        folder.mkdir(parents=True, exist_ok=True)
        kept: dict[FileParam, Path] = {}
        for param in FILE_PARAMS:
            if (file_id := job.spec[param]) is not None:
                kept[param] = folder / f"{param}.jsonl"
                if not kept[param].is_file():
                    _link(await self._stored(file_id, param), kept[param])
        return kept

    async def validate(self, job: Job) -> None:
        """Read and tokenise every row; raises InvalidDataset with the first that cannot be trained on."""
        for param, file in (await self.keep_data(job)).items():
            await asyncio.to_thread(self._validate_file, file, param)

    def _validate_file(self, file: Path, param: FileParam) -> None:
        check_renders(read_conversations(file, param), Tokenizer(self._base.folder), param)

    async def prepare(self, job: Job, folder: Path) -> None:
        """Write job.json, with the data beside it and the earlier attempts to resume from."""
        check_base(job, self._base)
        kept = await self.keep_data(job)
        earlier = sorted((p for p in folder.parent.iterdir() if p != folder), key=lambda p: int(p.name), reverse=True)
        contract = {
            "job_id": job.id,
            "base": {"id": self._base.id, "folder": str(self._base.folder), "digest": self._base.digest},
            "spec": dict(job.spec),
            "device": self._settings.device,
            "dtype": self._settings.dtype,
            "earlier": [str(path) for path in earlier],
            "training_file": str(kept["training_file"]),
            "validation_file": str(kept["validation_file"]) if "validation_file" in kept else None,
        }
        (folder / "job.json").write_text(json.dumps(contract, indent=2))

    async def change(self, job: Job, folder: Path, event: Mapping[str, Any]) -> Change:
        """Messages and metrics become events, checkpoints and results become published versions with their names."""
        match event["type"]:
            case "started":
                names = ("n_epochs", "batch_size", "learning_rate_multiplier")
                return Change(result={"hyperparameters": {name: event["hyperparameters"][name] for name in names}})
            case "message":
                return Change(events=[NewEvent(message=event["message"], level=event.get("level", "info"))])
            case "metrics":
                return _metrics(event["data"])
            case "checkpoint":
                return await self._checkpoint(job, folder, event)
            case "result":
                return await self._result(job, event)
            case _:
                return failure(event)

    async def _checkpoint(self, job: Job, folder: Path, event: Mapping[str, Any]) -> Change:
        step = event["step"]
        source = folder / "checkpoints" / f"checkpoint-{step}"
        try:
            version = await asyncio.to_thread(self._adapters.publish, source, self._base, event["provenance"])
        except (
            InvalidAdapter,
            OSError,
        ) as error:  # it learnt nothing, or diverged, or the disk is full: the run goes on
            return Change(events=[NewEvent(message=f"Checkpoint at step {step} is not served: {error}", level="warn")])
        _keep_newest(source)
        checkpoint = NewCheckpoint(
            step=step,
            model=f"{model_name(job)}:ckpt-step-{step}",
            version=version.digest,
            metrics={name: value for name, value in event["metrics"].items() if name != "total_steps"},
        )
        return Change(checkpoints=[checkpoint], events=[NewEvent(message=f"Checkpoint created at step {step}")])

    async def _result(self, job: Job, event: Mapping[str, Any]) -> Change:
        provenance = event["provenance"]
        version = await asyncio.to_thread(self._adapters.publish, Path(event["folder"]), self._base, provenance)
        metrics = await self._files.save(
            _once(_csv(provenance["history"])), filename="step_metrics.csv", purpose="fine-tune-results"
        )
        name = model_name(job)
        names = [name, *([job.spec["suffix"]] if job.spec["suffix"] else [])]
        return Change(
            aliases=dict.fromkeys(names, version.digest),
            events=[
                NewEvent(message=f"New fine-tuned model created: {name}"),
                NewEvent(message="The job has successfully completed"),
            ],
            result={
                "fine_tuned_model": name,
                "version": version.digest,
                "trained_tokens": event["trained_tokens"],
                "result_files": [metrics.id],
            },
            status=JobStatus.SUCCEEDED,
        )

    async def _stored(self, file_id: str, param: str) -> Path:
        try:
            return (await self._files.get(file_id)).path
        except NotFound as error:
            raise InvalidDataset(error.message, param=param, code=f"invalid_{param}") from error


def model_name(job: Job) -> str:
    """OpenAI's name of a job's model: ft:<base>:<organisation>:<suffix>:<id>."""
    return f"ft:{job.spec['model']}:brie:{job.spec['suffix'] or ''}:{job.id[-8:]}"


def _metrics(data: Mapping[str, Any]) -> Change:
    parts = [f"Step {data['step']}/{data['total_steps']}:"]
    names = {"train_loss": "training loss", "valid_loss": "validation loss", "full_valid_loss": "full validation loss"}
    parts.append(", ".join(f"{text}={data[name]:.4f}" for name, text in names.items() if name in data))
    result = {"estimated_finish": int(time.time() + data["eta_seconds"])} if "eta_seconds" in data else None
    return Change(events=[NewEvent(message=" ".join(parts), type="metrics", data=data)], result=result)


def _csv(history: Sequence[Mapping[str, Any]]) -> bytes:
    """OpenAI's columns; a step that was run again after a crash stands once, with its last figures."""
    steps: dict[int, dict[str, Any]] = {}
    for record in history:
        row = steps.setdefault(record["step"], {"step": record["step"]})
        row.update(record)
        row["train_accuracy"] = row.get("train_mean_token_accuracy")
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(steps[step] for step in sorted(steps))
    return text.getvalue().encode()


def _keep_newest(checkpoint: Path) -> None:
    """Only the newest is needed to go on from; the child itself removes none, because it cannot know what is told."""
    for older in checkpoint.parent.glob("checkpoint-*"):
        if int(older.name.removeprefix("checkpoint-")) < int(checkpoint.name.removeprefix("checkpoint-")):
            shutil.rmtree(older, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        partial = target.with_suffix(".partial")
        shutil.copyfile(source, partial)
        partial.rename(target)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
