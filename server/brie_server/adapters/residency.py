"""Names to adapter versions, and versions onto the device when a request needs them. It knows no HTTP and no text.

A request pins the version its model name points at when it arrives; moving or deleting the name does not touch it.
"""

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.weights.lora import Adaptable
from brie_server.adapters.residency_policy import Resident, evictions
from brie_server.engine.base import Engine

DEFAULT_BUDGET = 2 * 2**30


@dataclass(frozen=True, slots=True)
class Stay:
    """One request's hold on what answers it."""

    version: str | None
    """Digest of the adapter version; None is the base model."""
    leave: Callable[[], None]
    """Let go; called once."""


class Residency:
    """The adapters on the engine's device. Everything here runs on the event loop: no locks."""

    def __init__(
        self, engine: Engine, base: Adaptable, aliases: AliasStore, store: AdapterStore, budget: int = DEFAULT_BUDGET
    ) -> None:
        self._engine = engine
        self._base = base
        self._aliases = aliases
        self._store = store
        self._budget = budget
        self._residents: dict[str, Resident] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._dropping: dict[str, asyncio.Task[None]] = {}
        self._ticks = itertools.count()

    async def enter(self, model: str) -> Stay:
        """Hold what `model` points at now, loaded; raises NotFound for an unknown name, never the base instead."""
        if model == self._base.id:
            return Stay(None, lambda: None)
        version = (await self._aliases.get(model)).version
        while version not in self._residents:
            await self._load(version)
        self._count(version, +1)
        return Stay(version, lambda: self._leave(version))

    async def check(self, model: str) -> None:
        """Raises NotFound for a name that nothing answers to."""
        if model != self._base.id:
            await self._aliases.get(model)

    async def _load(self, version: str) -> None:
        """Load once, however many requests wait for it; whoever of them goes away, the load goes on."""
        task = self._loading.get(version)
        if task is None:
            task = self._loading[version] = asyncio.create_task(self._read_and_load(version))
            task.add_done_callback(lambda _done: self._loading.pop(version))
        await asyncio.shield(task)

    async def _read_and_load(self, version: str) -> None:
        if version in self._dropping:
            await self._dropping[version]
        found = self._store.open(version)
        await asyncio.to_thread(self._store.verify, found, self._base)
        num_bytes = await self._engine.load_adapter(version, found.folder)
        self._residents[version] = Resident(version, num_bytes, 0, next(self._ticks))

    def _count(self, version: str, change: int) -> None:
        resident = self._residents[version]
        self._residents[version] = replace(resident, users=resident.users + change, last_used=next(self._ticks))
        for dropped in evictions(self._residents.values(), self._budget):
            self._drop(dropped)

    def _leave(self, version: str) -> None:
        self._count(version, -1)

    def _drop(self, version: str) -> None:
        del self._residents[version]
        task = self._dropping[version] = asyncio.create_task(self._engine.unload_adapter(version))
        task.add_done_callback(lambda _done: self._dropping.pop(version))
