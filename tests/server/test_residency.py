"""Residency: what a request holds is on the device for as long as it holds it. The engine is a recording one."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from brie_core.errors import NotFound
from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.store.database import Database
from brie_core.weights.base_model import BaseModel
from brie_server.adapters.residency import Residency
from brie_server.engine.base import EngineInfo, Prompt, Token
from tiny_models import write_lora


class RecordingEngine:
    """Knows which adapters are loaded, and takes a while to load and unload."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.loads = 0

    def info(self) -> EngineInfo:
        raise NotImplementedError

    def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        raise NotImplementedError

    async def load_adapter(self, digest: str, folder: Path) -> int:
        await asyncio.sleep(0.01)
        self.loads += 1
        self.loaded.add(digest)
        return 100

    async def unload_adapter(self, digest: str) -> None:
        await asyncio.sleep(0.01)
        self.loaded.discard(digest)

    async def aclose(self) -> None:
        raise NotImplementedError


@pytest.fixture
def engine() -> RecordingEngine:
    return RecordingEngine()


@pytest.fixture
async def residency(
    engine: RecordingEngine, database: Database, tiny_base: BaseModel, tiny_model: Path, tmp_path: Path
) -> Residency:
    """Room for two of three adapters a, b and c."""
    store, aliases = AdapterStore(tmp_path), AliasStore(database)
    for seed, name in enumerate("abc"):
        version = store.publish(write_lora(tmp_path / name, tiny_model, seed=seed), tiny_base, {})
        await aliases.move(name, version.digest, expected=None)
    return Residency(engine, tiny_base, aliases, store, budget=200)


async def test_many_requests_for_one_adapter_are_one_load(residency: Residency, engine: RecordingEngine) -> None:
    stays = await asyncio.gather(*(residency.enter("a") for _ in range(8)))
    assert engine.loads == 1
    assert {stay.version for stay in stays} == engine.loaded


async def test_the_least_recently_used_goes_and_comes_back(residency: Residency, engine: RecordingEngine) -> None:
    for name in "abc":
        (await residency.enter(name)).leave()
    await asyncio.sleep(0.05)
    assert len(engine.loaded) == 2
    stay = await residency.enter("a")
    assert stay.version in engine.loaded


async def test_what_is_held_is_never_dropped(residency: Residency, engine: RecordingEngine) -> None:
    stays = [await residency.enter(name) for name in "abc"]
    await asyncio.sleep(0.05)
    assert {stay.version for stay in stays} <= engine.loaded


@pytest.mark.parametrize("attempt", range(10))
async def test_whoever_is_in_finds_the_adapter_loaded_whatever_others_do(
    attempt: int, residency: Residency, engine: RecordingEngine
) -> None:
    held = [await residency.enter(name) for name in "bc"]

    async def come_and_go(stay_seconds: float) -> bool:
        stay = await residency.enter("a")
        await asyncio.sleep(stay_seconds)
        there = stay.version in engine.loaded
        stay.leave()
        return there

    waits = [0, 0.001 * attempt, 0.02, 0, 0.03]
    assert all(await asyncio.gather(*(come_and_go(seconds) for seconds in waits)))
    assert {stay.version for stay in held} <= engine.loaded


async def test_an_unknown_name_is_never_the_base(residency: Residency) -> None:
    with pytest.raises(NotFound):
        await residency.enter("nope")
    with pytest.raises(NotFound):
        await residency.check("nope")
