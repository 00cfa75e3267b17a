"""Evaluations as a worker sees them: a row in, a report out, and its section for a card. It asks no model anything."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from brie_core.durable import link_file
from brie_core.errors import InvalidRequest, NotFound
from brie_core.settings import OWN_EVALUATION_KEY, Settings
from brie_core.store.evaluations import candidate_of
from brie_core.store.files import FileStore
from brie_core.store.job_store import Change
from brie_core.store.jobs import Job, JobStatus, NewEvent
from brie_core.weights.base_model import BaseModel
from brie_trainer.evaluation.card import card_section
from brie_trainer.evaluation.report import Report
from brie_trainer.kind import check_base, failure

_PATIENCE = {"timeout_seconds": 600.0, "retries": 20}
"""With this server: it may be training on the same cores, or starting anew."""
_FIELDS = {"prompts.file": "prompts", "prompts.themes": "themes", "validation_file": "data"}
"""Fields of the child's contract by which those of the API go."""


class EvaluationKind:
    """Evaluations: models, by whatever server, are asked, and what they answer becomes a report."""

    module = "brie_trainer.evaluation"

    def __init__(self, settings: Settings, base: BaseModel, files: FileStore) -> None:
        self._settings = settings
        self._base = base
        self._files = files
        self.environment: Mapping[str, str] = {OWN_EVALUATION_KEY: settings.api_keys[0]} if settings.api_keys else {}

    async def prepare(self, job: Job, folder: Path) -> None:
        """Write job.json; files are linked into the job's folder, so that deleting them elsewhere does not stop it."""
        check_base(job, self._base)
        spec = job.spec
        kept = self._settings.home / "jobs" / job.id / "data"
        held_out = None if spec["data"] is None else await self._kept(spec["data"], kept / "held_out.jsonl", "data")
        prompts = None
        if spec["prompts"] not in (None, "default"):
            prompts = await self._kept(spec["prompts"], kept / "prompts.jsonl", "prompts")
        (folder / "job.json").write_text(json.dumps(self._contract(job, held_out, prompts), indent=2))

    async def _kept(self, file_id: str, target: Path, param: str) -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_file():  # noqa: ASYNC240  # a local one
            return target
        try:
            link_file((await self._files.get(file_id)).path, target)
        except NotFound as error:
            raise InvalidRequest(error.message, param=param, code="file_not_found") from error
        return target

    def _contract(self, job: Job, held_out: Path | None, prompts: Path | None) -> dict[str, Any]:
        """As `brie_trainer.evaluation.contract.Job` reads it."""
        spec = job.spec
        told = {name: spec[name] for name in ("against", "statistics", "gate", "seed", "concurrency", "title", "sweep")}
        told |= {"output": str(self._settings.home / "evaluations" / job.id)}
        told["candidates"] = [self._candidate(each) for each in spec["candidates"]]
        if held_out is not None:
            limit = spec["max_length"] or self._base.context_length
            told["held_out"] = {"file": str(held_out), "max_length": limit, "limit": spec["data_limit"]}
        if spec["prompts"] is not None:
            told["prompts"] = {name: spec[name] for name in ("themes", "limit", "samples", "sampling")}
            told["prompts"] |= {"file": prompts and str(prompts), "from_held_out": spec["held_out_prompts"]}
        if spec["judging"] is not None:
            told["judging"] = {**spec["judging"], "judges": [self._judge(each) for each in spec["judging"]["judges"]]}
        return told

    def _candidate(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        own = {"version": entry["version"], "seed_offset": entry["seed_offset"]}
        tokenizer = None if entry["base_url"] else str(self._base.folder)
        return {**self._endpoint(entry), **own, "tokenizer": tokenizer}

    def _judge(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**self._endpoint(entry), "structured": entry["structured"], "max_tokens": entry["max_tokens"]}

    def _endpoint(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A key of this server goes to this server alone, whatever a row says."""
        told = {
            name: entry[name] for name in ("name", "model", "timeout_seconds", "retries") if entry[name] is not None
        }
        if entry["base_url"] is None:
            key = OWN_EVALUATION_KEY if self._settings.api_keys else None
            return {**_PATIENCE, **told, "base_url": f"{self._settings.base_url}/v1", "key_env": key}
        if entry["key_env"] == OWN_EVALUATION_KEY:
            raise InvalidRequest(f"{OWN_EVALUATION_KEY} is no other server's key.", param="key_env")
        return {**told, "base_url": entry["base_url"], "key_env": entry["key_env"]}

    async def change(self, job: Job, folder: Path, event: Mapping[str, Any]) -> Change:
        """Progress and result go into the row; report and answers are in their place already."""
        match event["type"]:
            case "progress":
                return _progress(job, event)
            case "stopped":
                return Change(events=[NewEvent(message="Stopped: what was asked so far is kept")])
            case "result":
                return _result(event)
            case _:
                return failure({**event, "param": _FIELDS.get(str(event["param"]), event["param"])})


def _progress(job: Job, event: Mapping[str, Any]) -> Change:
    """An evaluation that gets on may crash as often as it likes."""
    told = {"progress": event["fraction"], "message": event["message"]}
    if event["fraction"] > job.result.get("progress", 0.0):
        told["crashes"] = 0
    return Change(events=[NewEvent(message=event["message"])], result=told)


def _result(event: Mapping[str, Any]) -> Change:
    told = [NewEvent(message=sentence) for sentence in event["sentences"]]
    gate = event["gate"]
    told += [
        NewEvent(message=verdict["sentence"], level="info" if verdict["passed"] else "warn")
        for verdict in (gate or {}).get("verdicts", ())
    ]
    return Change(
        result={
            "files": event["files"],
            "sentences": event["sentences"],
            "gate": gate,
            "progress": 1.0,
            "message": None,
        },
        events=[*told, NewEvent(message="The evaluation has successfully completed")],
        status=JobStatus.SUCCEEDED,
    )


def evaluated_section(job: Job, version: str, home: Path) -> str | None:
    """What a finished evaluation says of this version, for a model card; None if its report is not here any more."""
    try:
        report = Report.model_validate_json((home / "evaluations" / job.id / "report.json").read_bytes())
    except (OSError, ValidationError):
        return None
    return card_section(report, candidate_of(job, version))
