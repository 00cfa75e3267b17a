"""What an evaluation is asked, resolved: names to exact versions, defaults to what they stand for. It starts none."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from brie_core.errors import InvalidRequest, NotFound
from brie_core.store.jobs import Job, JobKind
from brie_core.weights.base_model import BaseModel
from brie_server.api.services import Services
from brie_server.schema.evaluations import MOST_CANDIDATES, Asked, AskedJudge, CreateEvaluation, JudgingOptions

BASE_VERSION = "base"
"""What the base model's answers say in `brie-adapter-version`."""
HELD_OUT_PROMPTS = 16
_OF_PROMPTS = ("sweep", "judges", "themes", "limit", "held_out_prompts", "samples", "sampling")
_OF_ROWS = ("data_limit", "max_length", "held_out_prompts")
_DEFAULT, _NONE = "default", "none"
_OPTIONS = ("data_limit", "max_length", "themes", "limit", "samples", "sampling", "statistics", "seed", "concurrency")


@dataclass(frozen=True, slots=True)
class _Data:
    """The held-out rows, and where they were taken from."""

    file: str | None
    source: str | None = None


async def evaluation_spec(data: CreateEvaluation, services: Services) -> dict[str, Any]:
    """The row's spec, which never changes; raises NotFound and InvalidRequest with the field as `param`."""
    _check_question(data)
    base = services.trainable_base()
    trained_by = None if data.job is None else await _job(data.job, services)
    asked = await _candidates(data, trained_by, base, services)
    candidates, against = await _with_opponent(data, asked, base, services)
    held_out = await _held_out(data, trained_by, asked, services)
    prompts = await _prompts(data, services)
    _check_material(data, held_out, prompts, candidates)
    _check_judging(data, against)
    return {
        **data.model_dump(mode="json", include=set(_OPTIONS)),
        "candidates": candidates,
        "against": against,
        "job": data.job,
        "data": held_out.file,
        "data_source": held_out.source,
        "prompts": prompts,
        "held_out_prompts": _held_out_prompts(data, held_out, prompts),
        "sweep": None if data.sweep is None else data.sweep.model_dump(mode="json"),
        "judging": await _judging(data, base, services) if data.judges else None,
        "gate": _gate(data, services),
        "title": data.title,
        "base": {"id": base.id, "folder": str(base.folder), "digest": base.digest},
    }


def _check_question(data: CreateEvaluation) -> None:
    if len(asked := data.questions) != 1:
        raise InvalidRequest(
            "Give exactly one of model, models and job.", param=asked[1] if asked else "model", code="invalid_value"
        )


def _check_judging(data: CreateEvaluation, against: str | None) -> None:
    if data.judges and against is None:
        raise InvalidRequest("Judges compare answers, and there is only one model: give against.", param="against")
    if not data.judges and data.judging != JudgingOptions():
        raise InvalidRequest("judging is of judges, and there are none: give judges.", param="judging")
    if data.judging.samples > data.samples:
        raise InvalidRequest(
            f"Of {data.samples} answers to each prompt, {data.judging.samples} cannot be judged: ask for more samples.",
            param="judging.samples",
        )


async def _job(job_id: str, services: Services) -> Job:
    try:
        return await services.jobs.get(job_id, JobKind.FINE_TUNE)
    except NotFound as error:
        raise NotFound(error.message, param="job", code="job_not_found") from error


async def _candidates(
    data: CreateEvaluation, trained_by: Job | None, base: BaseModel, services: Services
) -> list[dict[str, Any]]:
    """What is evaluated, without what it is compared with."""
    if trained_by is not None:
        return await _checkpoints(trained_by, base, services)
    named = [(f"models[{number}]", each) for number, each in enumerate(data.models or ())]
    if data.model is not None:
        named = [("model", data.model)]
    found = [await _candidate(each, param, base, services) for param, each in named]
    for (param, _), one in zip(named, found, strict=True):
        if sum(each["name"] == one["name"] for each in found) > 1:
            raise InvalidRequest(f"Two candidates are called {one['name']!r}: give them names.", param=f"{param}.name")
    return found


async def _checkpoints(job: Job, base: BaseModel, services: Services) -> list[dict[str, Any]]:
    found = list(reversed(await services.jobs.checkpoints(job.id, limit=MOST_CANDIDATES)))
    if not found:
        raise InvalidRequest(f"Job {job.id} has no checkpoints yet.", param="job", code="no_checkpoints")
    if len(found) == MOST_CANDIDATES:
        raise InvalidRequest(
            f"Job {job.id} has more checkpoints than one evaluation compares ({MOST_CANDIDATES - 1}): name those that "
            "are meant in models.",
            param="job",
            code="too_many_checkpoints",
        )
    return [_own(Asked(model=each.model), await _version(each.model, "job", base, services)) for each in found]


async def _candidate(asked: Asked, param: str, base: BaseModel, services: Services) -> dict[str, Any]:
    """Raises NotFound for a model of this server that does not exist."""
    if asked.base_url is not None:
        return _entry(asked, None)
    return _own(asked, await _version(asked.model, param, base, services))


async def _version(model: str, param: str, base: BaseModel, services: Services) -> str:
    if model == base.id:
        return BASE_VERSION
    try:
        version = services.adapters.open((await services.aliases.get(model)).version)
    except NotFound as error:
        raise NotFound(error.message, param=param, code="model_not_found") from error
    if version.manifest["base"]["digest"] != base.digest:
        raise InvalidRequest(
            f"{model!r} was trained on {version.manifest['base']['id']}, with other weights than this server has.",
            param=param,
            code="adapter_base_mismatch",
        )
    return version.digest


async def _with_opponent(
    data: CreateEvaluation, candidates: list[dict[str, Any]], base: BaseModel, services: Services
) -> tuple[list[dict[str, Any]], str | None]:
    """All candidates, and the name of the one that the others are compared with."""
    asked = data.against or Asked(model=base.id)
    opponent = await _candidate(asked, "against", base, services)
    known = next((each for each in candidates if _is_same(each, opponent)), None)
    if known is None:
        if any(each["name"] == opponent["name"] for each in candidates):
            raise InvalidRequest(f"A candidate is called {opponent['name']!r} already.", param="against.name")
        return [*candidates, opponent], opponent["name"]
    if len(candidates) > 1:
        return candidates, known["name"]
    if data.against is None:  # the base alone
        return candidates, None
    again = {**opponent, "name": f"{known['name']} again"[-200:], "seed_offset": 1}
    return [*candidates, again], again["name"]


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("model", "version", "base_url"))


async def _held_out(
    data: CreateEvaluation, trained_by: Job | None, candidates: Sequence[dict[str, Any]], services: Services
) -> _Data:
    if data.data == _NONE:
        return _Data(None)
    if data.data is not None:
        await _check_file(data.data, "data", services)
        return _Data(data.data, "given")
    if trained_by is not None:
        return await _validation_file(trained_by, services)
    found = {each.file: each for each in [await _trained_on(each["version"], services) for each in candidates]}
    found.pop(None, None)
    if len(found) > 1:
        raise InvalidRequest(
            f"The models were validated on different files ({', '.join(map(str, found))}): say which one in data.",
            param="data",
            code="data_ambiguous",
        )
    return next(iter(found.values()), _Data(None))


async def _trained_on(version: str | None, services: Services) -> _Data:
    """By the adapter version's own account."""
    if version is None or version == BASE_VERSION:
        return _Data(None)
    job_id = services.adapters.open(version).manifest.get("job_id")
    try:
        return await _validation_file(await services.jobs.get(str(job_id), JobKind.FINE_TUNE), services)
    except NotFound:
        return _Data(None)


async def _validation_file(job: Job, services: Services) -> _Data:
    """None where there was none, where it was deleted since, and for preferences, which are no rows to be scored."""
    file_id = job.spec["validation_file"]
    if file_id is None or job.spec.get("method", "supervised") != "supervised":
        return _Data(None)
    try:
        await services.files.get(file_id)
    except NotFound:
        return _Data(None)
    return _Data(file_id, f"validation_file of {job.id}")


async def _prompts(data: CreateEvaluation, services: Services) -> str | None:
    if data.prompts not in (_DEFAULT, _NONE):
        await _check_file(data.prompts, "prompts", services)
    return None if data.prompts == _NONE else data.prompts


async def _check_file(file_id: str, param: str, services: Services) -> None:
    try:
        await services.files.get(file_id)
    except NotFound as error:
        raise InvalidRequest(error.message, param=param, code="file_not_found") from error


def _check_material(
    data: CreateEvaluation, held_out: _Data, prompts: str | None, candidates: Sequence[dict[str, Any]]
) -> None:
    """What would have nothing to work on is refused."""
    if held_out.file is None and prompts is None:
        raise InvalidRequest("There are neither held-out rows nor prompts to measure on: give data.", param="data")
    if prompts is None and all(each["base_url"] is not None for each in candidates):
        raise InvalidRequest(
            "Held-out rows are scored by models of this server alone, and there are to be no prompts: nothing would be "
            "measured.",
            param="prompts",
        )
    neutral = CreateEvaluation()
    of_prompts = [name for name in _OF_PROMPTS if getattr(data, name) not in (getattr(neutral, name), 0)]
    if prompts is None and of_prompts:
        raise InvalidRequest(f"{of_prompts[0]} needs prompts, and there are to be none.", param=of_prompts[0])
    if data.sweep is not None and not any(data.sweep.model_dump(exclude={"limit"}).values()):
        raise InvalidRequest("The sweep names no values: give lists of temperature, top_p or others.", param="sweep")
    of_rows = [name for name in _OF_ROWS if getattr(data, name)]
    if held_out.file is None and of_rows:
        raise InvalidRequest(f"{of_rows[0]} is of held-out rows, and there are none: give data.", param=of_rows[0])


def _held_out_prompts(data: CreateEvaluation, held_out: _Data, prompts: str | None) -> int:
    if held_out.file is None or prompts is None:
        return 0
    return HELD_OUT_PROMPTS if data.held_out_prompts is None else data.held_out_prompts


async def _judging(data: CreateEvaluation, base: BaseModel, services: Services) -> dict[str, Any]:
    judges = [await _judge(each, f"judges[{n}]", base, services) for n, each in enumerate(data.judges)]
    for number, judge in enumerate(judges):
        if sum(each["name"] == judge["name"] for each in judges) > 1:
            raise InvalidRequest(f"Two judges are called {judge['name']!r}.", param=f"judges[{number}].name")
    return {"judges": judges, **data.judging.model_dump(mode="json")}


async def _judge(asked: AskedJudge, param: str, base: BaseModel, services: Services) -> dict[str, Any]:
    found = await _candidate(asked, f"{param}.model", base, services)
    return {**found, "structured": asked.structured, "max_tokens": asked.max_tokens}


def _gate(data: CreateEvaluation, services: Services) -> dict[str, Any] | None:
    if data.gate_of is None:
        return None if data.gate is None else {path: bound.model_dump() for path, bound in data.gate.items()}
    try:
        return {path: dict(bound) for path, bound in services.gates.get(data.gate_of).bounds.items()}
    except NotFound as error:
        raise NotFound(error.message, param="gate_of", code=error.code) from error


def _own(asked: Asked, version: str) -> dict[str, Any]:
    return _entry(asked, version)


def _entry(asked: Asked, version: str | None) -> dict[str, Any]:
    told = asked.model_dump(mode="json", include={"model", "base_url", "key_env", "timeout_seconds", "retries"})
    return {"name": asked.called, **told, "version": version, "seed_offset": 0}
