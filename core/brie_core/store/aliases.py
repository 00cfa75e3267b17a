"""Names that point at adapter versions; the only mutable thing about an adapter. It knows rows, not folders."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from brie_core.errors import Conflict, NotFound
from brie_core.store.database import Database, exclusive
from brie_core.store.tables import aliases

_SUBJECT = "aliases"
"""All names are moved one after the other: whether a version has lost its last one is a question about all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """A name and the version it points at."""

    name: str
    version: str
    job_id: str | None
    """The job that pointed it, if one did."""
    created_at: int


class AliasStore:
    """The aliases of one database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    async def get(self, name: str) -> Alias:
        """The alias, as it stands; raises NotFound."""
        async with self._database.read() as connection:
            found = await _find(connection, name)
        if found is None:
            raise no_such_model(name)
        return found

    async def list(self) -> Sequence[Alias]:
        """All aliases, oldest first."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(aliases).order_by(aliases.c.created_at, aliases.c.name))).all()
        return [Alias(**row._mapping) for row in rows]

    async def move(
        self, name: str, version: str, *, expected: str | None, check: Callable[[], object] = lambda: None
    ) -> Alias:
        """Point `name` from the version `expected` (None: a new name) to `version`; raises Conflict on a lost race.

        `check` runs inside the transaction and may refuse by raising: whether the version is there, say.
        """
        async with self._database.write() as connection:
            await exclusive(connection, _SUBJECT)
            current = await _find(connection, name)
            if (current.version if current else None) != expected:
                stands = f"points at {current.version}" if current else "does not exist"
                raise Conflict(
                    f"{name!r} {stands}, not at {expected}: look again and decide anew.",
                    param="expected_version",
                    code="version_conflict",
                )
            check()
            await point_alias(connection, name, version, None, int(self._clock()))
            moved = await _find(connection, name)
        if moved is None:
            raise no_such_model(name)
        return moved

    async def delete(self, name: str) -> str | None:
        """Remove `name`; returns its version if that was its last name. Raises NotFound."""
        async with self._database.write() as connection:
            await exclusive(connection, _SUBJECT)
            current = await _find(connection, name)
            if current is None:
                raise no_such_model(name)
            await connection.execute(delete(aliases).where(aliases.c.name == name))
            left = select(aliases.c.name).where(aliases.c.version == current.version).limit(1)
            return current.version if (await connection.execute(left)).first() is None else None


async def point_alias(connection: AsyncConnection, name: str, version: str, job_id: str | None, now: int) -> None:
    """Create or move an alias inside the caller's transaction, which locks its job first, if it is of one."""
    await exclusive(connection, _SUBJECT)
    values = {"version": version, "job_id": job_id, "created_at": now}
    moved = await connection.execute(update(aliases).where(aliases.c.name == name).values(values))
    if moved.rowcount == 0:
        await connection.execute(insert(aliases).values(name=name, **values))


def no_such_model(name: str) -> NotFound:
    """The 404 that every unknown model name gets; nothing ever falls back to the base."""
    return NotFound(
        f"The model {name!r} does not exist: GET /v1/models lists those that do.", param="model", code="model_not_found"
    )


async def _find(connection: AsyncConnection, name: str) -> Alias | None:
    row = (await connection.execute(select(aliases).where(aliases.c.name == name))).one_or_none()
    return None if row is None else Alias(**row._mapping)
