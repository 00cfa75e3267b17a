"""/v1/gates: bounds that an adapter's versions must keep to before its name moves to them. It knows rows and files."""

from litestar import delete, get, put
from litestar.params import FromPath, JSONBody

from brie_core.background import in_background
from brie_core.errors import Conflict, NotFound
from brie_core.identifiers import check_name
from brie_core.store.evaluations import finished_evaluations, has_passed, same_bounds
from brie_core.store.gates import StoredGate
from brie_core.wire import Deleted, GateObject
from brie_server.api.services import Given, Services
from brie_server.schema.evaluations import PutGate


@put("/gates/{name:path}", status_code=200, operation_id="putGate")
async def put_gate(name: FromPath[str], data: JSONBody[PutGate], services: Given) -> GateObject:
    """Store the gate of an adapter's name, in place of one that is there."""
    alias = check_name(name.removeprefix("/"), "name")
    bounds = {path: bound.model_dump() for path, bound in data.bounds.items()}
    return _shown(await in_background(services.gates.put, alias, bounds))


@get("/gates/{name:path}", operation_id="retrieveGate")
async def retrieve_gate(name: FromPath[str], services: Given) -> GateObject:
    """The gate of an adapter's name."""
    return _shown(services.gates.get(name.removeprefix("/")))


@delete("/gates/{name:path}", status_code=200, operation_id="deleteGate")
async def delete_gate(name: FromPath[str], services: Given) -> Deleted:
    """Take the gate of an adapter's name away."""
    services.gates.remove(name.removeprefix("/"))
    return Deleted(id=name.removeprefix("/"), object="gate")


async def check_gate(name: str, version: str, services: Services) -> None:
    """Raises Conflict unless the last evaluation of exactly this version by the name's gate has passed it."""
    try:
        gate = services.gates.get(name)
    except NotFound as error:
        raise Conflict(error.message, param="gate", code="gate_missing") from error
    async for job in finished_evaluations(services.jobs, version):
        if job.spec["gate"] is None or not same_bounds(job.spec["gate"], gate.bounds):
            continue
        if has_passed(job, version):
            return
        raise Conflict(
            f"Version {version[:12]} did not pass the gate of {name!r} in {job.id}: {name!r} stays where it is.",
            param="gate",
            code="gate_failed",
        )
    raise Conflict(
        f"No finished evaluation has held version {version[:12]} to the gate of {name!r}: POST /v1/evaluations with "
        f'"gate_of": "{name}".',
        param="gate",
        code="gate_not_evaluated",
    )


def _shown(gate: StoredGate) -> GateObject:
    return GateObject(id=gate.name, created_at=gate.created_at, bounds={p: dict(b) for p, b in gate.bounds.items()})
