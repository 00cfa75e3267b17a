"""Adapters that come and go under traffic: every answer is its own adapter's, and nothing piles up. Tiny models."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
import torch

from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.store.database import Database
from brie_core.weights.lora import read_adapter
from brie_server.adapters.residency import Residency
from brie_server.engine.torch.adapters import Adapters
from brie_server.engine.torch.architecture import read_architecture
from brie_server.engine.torch.cache import Cache
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.lora_rows import PackedAdapters
from brie_server.engine.torch.scheduler import Scheduler
from server.engine.asking import CPU, answer, prompt
from server.engine.tiny_models import TinyModel, token_ids

NUM_CYCLES, NUM_WARM_UP, AT_ONCE = 1000, 400, 4
MOST_GROWTH = 64 * 2**20
"""What the process may grow by in the 600 cycles after the warm-up: allocators settle late, by 10 to 40 MiB. The 300
wide adapters alone take 400."""
KINDS = ("plain", "rslora", "patterns", "q-and-v", "all-linear", "one-layer")
LONG, LENGTH = token_ids(100, seed=4), 6


@pytest.fixture
def database_url() -> str:
    """SQLite: the database is not what is tested here."""
    return ""


class Inside:
    """What an engine's thread owns, for a test to look at."""

    def __init__(self, engine: TorchEngine) -> None:
        thread: Any = engine._thread
        self.scheduler: Scheduler = thread._scheduler
        self._runner = thread._runner

    @property
    def adapters(self) -> Adapters | PackedAdapters:
        """The loaded adapters."""
        adapters: Adapters | PackedAdapters = self._runner._adapters
        return adapters

    @property
    def cache(self) -> Cache:
        """Keys and values."""
        cache: Cache = self._runner._cache
        return cache


@pytest.fixture(params=["compiled", "torch"])
def engine(
    request: pytest.FixtureRequest,
    start: Callable[..., TorchEngine],
    tiny_model: TinyModel,
    monkeypatch: pytest.MonkeyPatch,
) -> TorchEngine:
    if request.param == "torch":
        monkeypatch.setattr("brie_server.engine.torch.device.rows_for", lambda _device, _dtype: None)
    return start(tiny_model.base, max_blocks=40)


@pytest.fixture
def right(tiny_model: TinyModel) -> dict[str | None, list[int]]:
    """What PEFT answers to the long prompt, for each kind of adapter and for the base."""
    answers: dict[str | None, list[int]] = {
        kind: tiny_model.reference(LONG, LENGTH, tiny_model.adapter(kind)) for kind in (*KINDS, "wide")
    }
    answers[None] = tiny_model.reference(LONG, LENGTH)
    assert len({tuple(each) for each in answers.values()}) == len(answers)
    return answers


@asynccontextmanager
async def traffic(engine: TorchEngine, right: dict[str | None, list[int]]) -> AsyncIterator[None]:
    """Answers of the base and of one adapter that stays, one after another, each compared with PEFT's."""
    stop = asyncio.Event()

    async def keep_asking(adapter: str | None) -> int:
        for number in count():
            assert await answer(engine, prompt(LONG, LENGTH, adapter=adapter)) == right[adapter]
            if stop.is_set():
                return number
        raise AssertionError

    asking = [asyncio.create_task(keep_asking(adapter)) for adapter in (None, "plain")]
    yield
    stop.set()
    assert all(number > 10 for number in await asyncio.gather(*asking))


async def test_a_thousand_adapters_come_and_go_beside_the_traffic(
    engine: TorchEngine, tiny_model: TinyModel, right: dict[str | None, list[int]]
) -> None:
    inside, numbers = Inside(engine), iter(range(NUM_CYCLES))
    await engine.load_adapter("plain", tiny_model.adapter("plain"))
    sizes: list[int] = []

    async def cycle() -> None:
        for number in numbers:
            kind, digest = "wide" if number % 2 else KINDS[number // 2 % len(KINDS)], f"{number}"
            await engine.load_adapter(digest, tiny_model.adapter(kind))
            assert await answer(engine, prompt(LONG, LENGTH, adapter=digest)) == right[kind]
            await engine.unload_adapter(digest)
            if number >= NUM_WARM_UP and number % 25 == 0:
                sizes.append(memory())

    async with traffic(engine, right):
        await asyncio.gather(*(cycle() for _ in range(AT_ONCE)))
    assert median(sizes[-5:]) - median(sizes[:5]) < MOST_GROWTH, sizes
    assert inside.cache.num_blocks <= 40
    await engine.unload_adapter("plain")
    await answer(engine, prompt(LONG, 2))
    assert inside.adapters.num_bytes == 0
    assert inside.cache.num_blocks == len(LONG) // 32  # the base's, for all of the others' have gone with them


def memory() -> int:
    """What this process takes, without what only waits to be collected."""
    gc.collect()
    size: int = psutil.Process().memory_info().rss
    return size


async def test_a_name_that_moves_under_traffic_never_meets_another_versions_keys_and_values(
    engine: TorchEngine,
    tiny_model: TinyModel,
    right: dict[str | None, list[int]],
    database: Database,
    tmp_path: Path,
) -> None:
    """All prompts are the same and longer than three blocks; the budget holds one adapter beside those in use."""
    store, aliases = AdapterStore(tmp_path), AliasStore(database)
    versions = {store.publish(tiny_model.adapter(kind), tiny_model.base, {}).digest: kind for kind in KINDS}
    residency = Residency(engine, tiny_model.base, aliases, store, budget=30_000)
    await engine.load_adapter("plain", tiny_model.adapter("plain"))
    current: str | None = None
    met = set()
    async with traffic(engine, right):
        for number in range(60):
            version = [*versions][number * 5 % len(versions)]
            current = (await aliases.move("moving", version, expected=current)).version
            for _ in range(2):
                stay = await residency.enter("moving")
                assert stay.version == version
                assert await answer(engine, prompt(LONG, LENGTH, adapter=stay.version)) == right[versions[version]]
                stay.leave()
            met.add(version)
    assert len(met) == len(versions)
    assert residency.num_users == 0
    assert residency.num_bytes <= 30_000


def test_a_pool_that_is_mostly_empty_is_given_up(tiny_model: TinyModel) -> None:
    adapters = Adapters(read_architecture(tiny_model.base.config), CPU, torch.float32)
    read = read_adapter(tiny_model.adapter("plain"), tiny_model.base.linear_modules)
    for digest in "abcdefgh":
        adapters.load(digest, adapters.prepare(read))
    adapters.batch([(digest, 1) for digest in "abcdefgh"])
    full = adapters.num_bytes
    for digest in "bcdefg":
        adapters.unload(digest)
    left = sum(each.num_bytes for digest in "ah" if (each := adapters.get(digest)))
    assert (adapters.num_bytes, full > left) == (left, True)
    with torch.inference_mode():
        assert adapters.batch([("a", 1), ("h", 1)]) is not None
    assert left < adapters.num_bytes < full
