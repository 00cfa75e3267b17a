"""Residency: what a request holds is on the device for as long as it holds it. The engine is a recording one."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from random import Random

import pytest

from brie_core.errors import EngineFailure, InvalidRequest, NotFound
from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore, point_alias
from brie_core.store.database import Database
from brie_core.weights.base_model import BaseModel
from brie_server.adapters.residency import Residency
from brie_server.engine.base import Embedding, EngineInfo, Prompt, Token
from tiny_models import write_lora


@pytest.fixture
def database_url() -> str:
    """SQLite: the database is not what is tested here."""
    return ""


class RecordingEngine:
    """Knows which adapters are loaded, and takes a while to load and unload."""

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.loads = 0
        self.fails = False
        self.most_loaded = 0
        self.most_at_once = 0
        self._at_once = 0

    def info(self) -> EngineInfo:
        raise NotImplementedError

    def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        raise NotImplementedError

    async def embed(self, token_ids: tuple[int, ...], adapter: str | None = None) -> Embedding:
        raise NotImplementedError

    async def load_adapter(self, digest: str, folder: Path) -> int:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        await asyncio.sleep(0.01)
        self._at_once -= 1
        if self.fails:
            raise EngineFailure("no")
        self.loads += 1
        self.loaded.add(digest)
        self.most_loaded = max(self.most_loaded, len(self.loaded))
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
def aliases(database: Database) -> AliasStore:
    return AliasStore(database)


@pytest.fixture
async def residency(
    engine: RecordingEngine, aliases: AliasStore, tiny_base: BaseModel, tiny_model: Path, tmp_path: Path
) -> Residency:
    """Room for two of three adapters a, b and c."""
    store = AdapterStore(tmp_path)
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


async def test_a_request_that_waits_for_its_adapter_is_counted_from_its_arrival(
    residency: Residency, engine: RecordingEngine
) -> None:
    """With room for two, eight requests for three adapters at once: each is loaded once, not again and again."""
    stays = await asyncio.gather(*(residency.enter(name) for name in "abcabcab"))
    assert engine.loads == 3
    for stay in stays:
        stay.leave()
    assert residency.num_users == 0


async def test_a_request_that_is_given_up_while_it_waits_leaves_no_count(residency: Residency) -> None:
    entering = asyncio.create_task(residency.enter("a"))
    await until(lambda: residency.num_users == 1)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert residency.num_users == 0
    (await residency.enter("a")).leave()


async def test_a_load_that_fails_is_told_and_tried_again(residency: Residency, engine: RecordingEngine) -> None:
    engine.fails = True
    for answer in await asyncio.gather(*(residency.enter("a") for _ in range(3)), return_exceptions=True):
        assert isinstance(answer, EngineFailure)
    assert residency.num_users == 0
    engine.fails = False
    (await residency.enter("a")).leave()


async def test_what_is_expected_is_loaded_unless_another_would_have_to_go(
    engine: RecordingEngine, aliases: AliasStore, tiny_base: BaseModel, tiny_model: Path, tmp_path: Path
) -> None:
    store = AdapterStore(tmp_path)
    version = store.publish(write_lora(tmp_path / "a", tiny_model, seed=0), tiny_base, {})
    size = sum(file.stat().st_size for file in version.folder.glob("adapter_*"))
    for budget, loads in ((size - 1, 0), (size, 1)):
        residency = Residency(engine, tiny_base, aliases, store, budget=budget)
        residency.expect(version)
        await asyncio.sleep(0.1)
        assert (engine.loads, residency.num_users) == (loads, 0)
    await aliases.move("a", version.digest, expected=None)
    (await residency.enter("a")).leave()
    assert engine.loads == 1


async def test_whoever_asks_for_what_was_expected_in_vain_is_told_why(
    residency: Residency, engine: RecordingEngine, aliases: AliasStore, tiny_base: BaseModel, tmp_path: Path
) -> None:
    store, engine.fails = AdapterStore(tmp_path), True
    roomy = Residency(engine, tiny_base, aliases, store)
    roomy.expect(store.open((await aliases.get("a")).version))
    with pytest.raises(EngineFailure):
        await roomy.enter("a")
    engine.fails = False
    (await roomy.enter("a")).leave()


async def test_adapters_are_loaded_one_at_a_time(residency: Residency, engine: RecordingEngine) -> None:
    for stay in await asyncio.gather(*(residency.enter(name) for name in "abc")):
        stay.leave()
    assert engine.most_at_once == 1


async def test_what_is_pinned_stays_and_moves_with_its_name(
    residency: Residency, engine: RecordingEngine, aliases: AliasStore
) -> None:
    versions = {name: (await aliases.get(name)).version for name in "abc"}
    await residency.pin("a", versions["a"])
    for name in "bcbc":
        (await residency.enter(name)).leave()
    assert versions["a"] in engine.loaded
    await aliases.move("a", versions["b"], expected=versions["a"])
    for name in "acac":
        (await residency.enter(name)).leave()
    await until(lambda: engine.loaded == {versions["b"], versions["c"]})
    residency.unpin("a")
    (await aliases.move("a", versions["a"], expected=versions["b"]))
    for name in "ca":
        (await residency.enter(name)).leave()
    await until(lambda: engine.loaded == {versions["a"], versions["c"]})


async def test_more_pins_than_the_budget_holds_are_refused(residency: Residency, aliases: AliasStore) -> None:
    for name in "ab":
        await residency.pin(name, (await aliases.get(name)).version)
    with pytest.raises(InvalidRequest) as refused:
        await residency.pin("c", (await aliases.get("c")).version)
    assert (refused.value.param, refused.value.code) == ("pinned", "pins_exceed_budget")
    assert residency.num_bytes <= 200


async def test_two_thousand_names_share_a_budget_that_holds_two(
    residency: Residency, engine: RecordingEngine, aliases: AliasStore, database: Database
) -> None:
    """Each answers as itself, and the memory stays within budget and what is in use."""
    versions = [(await aliases.get(name)).version for name in "abc"]
    names = {f"name-{index}": versions[index % 3] for index in range(2000)}
    async with database.write() as connection:
        for name, version in names.items():
            await point_alias(connection, name, version, None, 0)
    chance = Random(3)

    async def ask(name: str) -> None:
        stay = await residency.enter(name)
        assert stay.version == names[name]
        for _ in range(chance.randint(0, 5)):
            assert stay.version in engine.loaded
            await asyncio.sleep(0)
        stay.leave()

    for asked in range(0, 2000, 100):
        await asyncio.gather(*(ask(f"name-{index}") for index in range(asked, asked + 100)))
    await until(lambda: len(engine.loaded) <= 2)
    assert residency.num_users == 0
    assert engine.most_loaded <= 3


async def until(holds: Callable[[], bool]) -> None:
    """Look until it holds."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
