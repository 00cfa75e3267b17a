"""/v1/models and /v1/adapters: names, the versions they point at, and moving them. It knows stores, not weights."""

from contextlib import suppress

from litestar import delete, get, put
from litestar.params import FromPath, JSONBody

from brie_core.errors import Conflict, InvalidRequest, NotFound
from brie_core.identifiers import check_name
from brie_core.store.aliases import Alias
from brie_core.store.evaluations import candidate_of, newest_evaluation
from brie_core.store.jobs import Job, JobKind
from brie_core.wire import AdapterObject, Deleted, Page, page_of
from brie_server.api.gates import check_gate
from brie_server.api.services import Given, Services
from brie_server.schema.resources import ModelObject, PointAdapter


@get("/models", operation_id="listModels")
async def list_models(services: Given) -> Page[ModelObject]:
    """The base model, then every name of an adapter."""
    models = [_base(services), *(_adapter_model(alias, services) for alias in await services.aliases.list())]
    return page_of(models)


@get("/models/{model:path}", operation_id="retrieveModel")
async def retrieve_model(model: FromPath[str], services: Given) -> ModelObject:
    """One model by name."""
    name = model.removeprefix("/")
    if name == services.base.id:
        return _base(services)
    return _adapter_model(await services.aliases.get(name), services)


@delete("/models/{model:path}", status_code=200, operation_id="deleteModel")
async def delete_model(model: FromPath[str], services: Given) -> Deleted:
    """Delete an adapter's name, and its version with the last name."""
    name = model.removeprefix("/")
    await remove_name(name, services)
    return Deleted(id=name, object="model")


@get("/adapters", operation_id="listAdapters")
async def list_adapters(services: Given) -> Page[AdapterObject]:
    """Every name of an adapter with its version's manifest."""
    found = []
    for alias in await services.aliases.list():
        with suppress(NotFound):  # a version that was taken away by hand is no reason to hide the others
            found.append(_adapter(alias, services))
    return page_of(found)


@get("/adapters/{name:path}", operation_id="retrieveAdapter")
async def retrieve_adapter(name: FromPath[str], services: Given) -> AdapterObject:
    """One adapter by name."""
    alias = await services.aliases.get(name.removeprefix("/"))
    evaluated = await newest_evaluation(services.jobs, alias.version)
    return _adapter(alias, services, evaluated.id if evaluated else None)


@put("/adapters/{name:path}", status_code=200, operation_id="pointAdapter")
async def point_adapter(name: FromPath[str], data: JSONBody[PointAdapter], services: Given) -> AdapterObject:
    """Point a name at a version: 409 unless it points at `expected_version` now (null: the name is new).

    With `gate` also 409 unless an evaluation of the version has passed the gate that is stored for the name.
    """
    alias = name.removeprefix("/")
    check_free_name(alias, services, param="name")
    if data.gate:
        await check_gate(alias, data.version, services)
    moved = await services.aliases.move(
        alias, data.version, expected=data.expected_version, check=lambda: services.adapters.open(data.version)
    )
    return _adapter(moved, services)


@delete("/adapters/{name:path}", status_code=200, operation_id="deleteAdapter")
async def delete_adapter(name: FromPath[str], services: Given) -> Deleted:
    """Delete an adapter's name, and its version with the last name."""
    await remove_name(name.removeprefix("/"), services)
    return Deleted(id=name.removeprefix("/"), object="adapter")


def check_free_name(name: str, services: Services, param: str) -> None:
    """A name for an adapter: well-formed, and not the base model's."""
    check_name(name, param)
    if name == services.base.id:
        raise InvalidRequest(f"{name!r} is the base model's own name.", param=param, code="invalid_name")


async def remove_name(name: str, services: Services) -> None:
    """Delete a name; its version goes with its last name, unless a job still needs it."""
    if name == services.base.id:
        raise InvalidRequest("The base model cannot be deleted.", param="model", code="base_model")
    if job := await _user_of((await services.aliases.get(name)).version, services):
        doing = "evaluated" if job.kind is JobKind.EVALUATION else "exported"
        raise Conflict(f"{name!r} is being {doing} by {job.id}: wait for it or cancel it.", code="adapter_in_use")
    nameless = await services.aliases.delete(name)
    services.residency.unpin(name)
    if nameless is not None and await _user_of(nameless, services) is None:
        services.adapters.remove(nameless)


async def _user_of(version: str, services: Services) -> Job | None:
    """An export or an evaluation that still needs the version."""
    return next((job for job in await services.jobs.list_active() if _uses(job, version)), None)


def _uses(job: Job, version: str) -> bool:
    if job.kind is JobKind.EVALUATION:
        return candidate_of(job, version) is not None
    return job.spec.get("version") == version


def _base(services: Services) -> ModelObject:
    return ModelObject(id=services.base.id, created=services.started_at, root=services.base.id)


def _adapter_model(alias: Alias, services: Services) -> ModelObject:
    return ModelObject(id=alias.name, created=alias.created_at, root=alias.version, parent=services.base.id)


def _adapter(alias: Alias, services: Services, evaluation: str | None = None) -> AdapterObject:
    manifest = dict(services.adapters.open(alias.version).manifest)
    return AdapterObject(
        id=alias.name,
        created_at=alias.created_at,
        version=alias.version,
        base_model=manifest["base"]["id"],
        job_id=alias.job_id,
        manifest=manifest,
        evaluation=evaluation,
    )
