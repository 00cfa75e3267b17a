"""Names to adapter versions, and versions onto the device when a request needs them. It knows no HTTP and no text.

A request pins the version its model name points at when it arrives; moving or deleting the name does not touch it.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from brie_core.background import in_background
from brie_core.errors import InvalidRequest
from brie_core.store.adapters import AdapterStore, AdapterVersion
from brie_core.store.aliases import AliasStore
from brie_core.weights.lora import Adaptable
from brie_server.adapters.names import Names
from brie_server.adapters.residency_policy import Resident, evictions
from brie_server.engine.base import Engine

DEFAULT_BUDGET = 2 * 2**30
_LOADS_AT_ONCE = 1
"""More would be no faster: reading and hashing keep a core busy, and the streams want the others."""


@dataclass(frozen=True, slots=True)
class Stay:
    """One request's hold on what answers it."""

    version: str | None
    """Digest of the adapter version; None is the base model."""
    leave: Callable[[], None]
    """Let go; only the first call counts."""


class Residency:
    """The adapters on the engine's device. Everything here runs on the event loop: no locks."""

    def __init__(
        self, engine: Engine, base: Adaptable, aliases: AliasStore, store: AdapterStore, budget: int = DEFAULT_BUDGET
    ) -> None:
        self._engine = engine
        self._base = base
        self._names = Names(aliases)
        self._store = store
        self._budget = budget
        self._sizes: dict[str, int] = {}
        """The bytes of each resident version."""
        self._users: Counter[str] = Counter()
        """Requests that hold a version, or wait for it to be loaded."""
        self._last_used: dict[str, int] = {}
        self._pins: dict[str, str] = {}
        """Names that stay loaded, and the version that each was last seen to point at."""
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._dropping: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_LOADS_AT_ONCE)
        self._ticks = itertools.count()

    @property
    def num_bytes(self) -> int:
        """Memory that the resident adapters take."""
        return sum(self._sizes.values())

    @property
    def num_users(self) -> int:
        """Requests that hold an adapter or wait for one."""
        return self._users.total()

    async def enter(self, model: str) -> Stay:
        """Hold what `model` points at now, loaded; raises NotFound for an unknown name, never the base instead."""
        if model == self._base.id:
            return Stay(None, lambda: None)
        version = await self._names.version_of(model)
        if model in self._pins:
            self._pins[model] = version
        return await self._hold(version)

    def share(self, stay: Stay) -> Stay:
        """Another hold on what `stay` still holds: of the same version, wherever its name points by now."""
        if stay.version is None:
            return stay
        self._users[stay.version] += 1
        return self._stay(stay.version)

    def expect(self, version: AdapterVersion) -> None:
        """Begin to load a version that will probably be asked for soon, if no other has to go for it.

        Nobody waits: whoever asks for it is told what went wrong.
        """
        size = sum(entry["bytes"] for entry in version.manifest["files"].values())
        if version.digest not in self._sizes and self.num_bytes + size <= self._budget:
            self._begin_to_load(version.digest)

    async def check(self, model: str) -> None:
        """Raises NotFound for a name that nothing answers to."""
        if model != self._base.id:
            await self._names.version_of(model)

    async def pin(self, name: str, version: str) -> None:
        """Load `version`, and keep whatever `name` points at loaded from here on.

        Raises InvalidRequest, and pins nothing, when the pinned adapters would take more than the budget.
        """
        stay = await self._hold(version)
        try:
            self._check_pins({**self._pins, name: version})
            self._pins[name] = version
        finally:
            stay.leave()

    def unpin(self, name: str) -> None:
        """Let the name's adapter be dropped when the budget needs it; one that is not pinned is no error."""
        self._pins.pop(name, None)
        self._drop_excess()

    def _check_pins(self, pins: Mapping[str, str]) -> None:
        if sum(self._sizes.get(version, 0) for version in set(pins.values())) > self._budget:
            raise InvalidRequest(
                f"The pinned adapters would take more than the {self._budget} bytes that there are for all adapters: "
                "unload one that is pinned, or load this one without.",
                param="pinned",
                code="pins_exceed_budget",
            )

    async def _hold(self, version: str) -> Stay:
        """Counted from before the load on, so that nobody drops it between its arrival and its first use."""
        self._users[version] += 1
        try:
            if version not in self._sizes:
                await self._load(version)
        except BaseException:
            self._leave(version)
            raise
        self._last_used[version] = next(self._ticks)
        return self._stay(version)

    def _stay(self, version: str) -> Stay:
        held = [version]
        return Stay(version, lambda: self._leave(held.pop()) if held else None)

    def _leave(self, version: str) -> None:
        self._users[version] -= 1
        if not self._users[version]:
            del self._users[version]
        if version in self._sizes:
            self._last_used[version] = next(self._ticks)
        self._drop_excess()

    async def _load(self, version: str) -> None:
        """Load once, however many requests wait for it; whoever of them goes away, the load goes on."""
        await asyncio.shield(self._begin_to_load(version))

    def _begin_to_load(self, version: str) -> asyncio.Task[None]:
        task = self._loading.get(version)
        if task is None:
            task = self._loading[version] = asyncio.create_task(self._read_and_load(version))
            task.add_done_callback(lambda done: _forget(self._loading, version, done))
        return task

    async def _read_and_load(self, version: str) -> None:
        async with self._turns:
            if version in self._dropping:
                await asyncio.wait([self._dropping[version]])
            found = self._store.open(version)
            await in_background(self._store.verify, found, self._base)
            num_bytes = await self._engine.load_adapter(version, found.folder)
        self._sizes[version], self._last_used[version] = num_bytes, next(self._ticks)
        self._drop_excess()

    def _drop_excess(self) -> None:
        if self.num_bytes > self._budget:
            for version in evictions(self._residents(), self._budget):
                self._drop(version)

    def _residents(self) -> list[Resident]:
        pinned = set(self._pins.values())
        return [
            Resident(version, num_bytes, self._users[version], self._last_used[version], version in pinned)
            for version, num_bytes in self._sizes.items()
        ]

    def _drop(self, version: str) -> None:
        del self._sizes[version], self._last_used[version]
        task = self._dropping[version] = asyncio.create_task(self._engine.unload_adapter(version))
        task.add_done_callback(lambda done: _forget(self._dropping, version, done))


def _forget(tasks: dict[str, asyncio.Task[None]], version: str, done: asyncio.Task[None]) -> None:
    """Its failure was told to whoever waited for it; if nobody did any longer, it is no news."""
    del tasks[version]
    if not done.cancelled():
        done.exception()
