"""Rows of evaluations as the API shows them. Pure; it knows no store."""

from collections.abc import Mapping
from typing import Any

from brie_core.store.jobs import Job, JobStatus
from brie_core.wire import (
    EvaluatedModel,
    EvaluationJudge,
    EvaluationObject,
    ExportedFile,
    ExportError,
)


def shown_evaluation(job: Job) -> EvaluationObject:
    spec, result = job.spec, job.result
    gate: Mapping[str, Any] = result.get("gate") or {}
    judges = (spec["judging"] or {}).get("judges", ())
    return EvaluationObject(
        id=job.id,
        created_at=job.created_at,
        finished_at=job.finished_at,
        status=job.status,
        models=[EvaluatedModel(**_picked(each, EvaluatedModel)) for each in spec["candidates"]],
        judges=[EvaluationJudge(**_picked(each, EvaluationJudge)) for each in judges],
        **{name: spec[name] for name in ("against", "job", "data", "data_source", "prompts", "seed", "gate")},
        base_model=spec["base"]["id"],
        base_digest=spec["base"]["digest"],
        progress=1.0 if job.status is JobStatus.SUCCEEDED else result.get("progress", 0.0),
        message=result.get("message"),
        sentences=result.get("sentences", []),
        gate_passed=gate.get("passed"),
        gate_sentences=[verdict["sentence"] for verdict in gate.get("verdicts", ())],
        files=[ExportedFile(**entry) for entry in result.get("files", [])],
        error=None if job.error is None else ExportError(**job.error),
    )


def _picked(entry: Mapping[str, Any], kind: type[EvaluatedModel] | type[EvaluationJudge]) -> dict[str, Any]:
    return {name: entry[name] for name in kind.model_fields}
