"""The API while its database is away: what needs it is a 503 that says when to come back, and chat goes on."""

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest

from brie_core.settings import Settings
from brie_core.store.adapters import AdapterStore
from brie_core.store.aliases import AliasStore
from brie_core.store.schema import open_database
from brie_core.weights.base_model import BaseModel
from brie_server.app import create_app
from postgres_cluster import PostgresCluster
from scripted_engine import ScriptedEngine
from tcp_proxy import State, Wire

ROWS = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'
NEEDING: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/v1/models", {}),
    ("GET", "/v1/workers", {}),
    ("GET", "/v1/fine_tuning/jobs", {}),
    ("POST", "/v1/fine_tuning/jobs", {"json": {"model": "tiny", "training_file": "file-x"}}),
    ("POST", "/v1/files", {"files": {"file": ("a.jsonl", ROWS)}, "data": {"purpose": "fine-tune"}}),
    ("GET", "/v1/responses/resp_x", {}),
    ("POST", "/v1/responses", {"json": {"model": "tiny", "input": "x"}}),
    ("PUT", "/v1/adapters/new", {"json": {"version": "0" * 64}}),
]


class LoadingEngine(ScriptedEngine):
    """Takes any adapter."""

    async def load_adapter(self, digest: str, folder: Path) -> int:
        return 100


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("brie_core.store.database.COMMAND_SECONDS", 2.0)
    monkeypatch.setattr("brie_core.store.database.BUSY_MS", 500)


@pytest.fixture
def wire(postgres: PostgresCluster) -> Iterator[tuple[Wire, str]]:
    """A wire to the server, and the address of a fresh database behind it."""
    made = Wire(postgres.port)
    yield made, postgres.url(postgres.new_database("brie_1"), made.port)
    made.close()


@asynccontextmanager
async def served(settings: Settings, base: BaseModel, lora: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """An API with an adapter `known`, which was asked once, and another `unasked`, which was not."""
    version = AdapterStore(settings.home).publish(lora, base, {})
    database = await open_database(settings)
    for name in ("known", "unasked"):
        await AliasStore(database).move(name, version.digest, expected=None)
    await database.aclose()
    engine = LoadingEngine(base.folder)
    engine.says = "Yes."
    app = create_app(settings, base, lambda _settings, _base: engine)
    transport = httpx2.ASGITransport(app=cast("Any", app))
    async with (
        app.lifespan(),
        httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=30) as client,
    ):
        assert (await chat(client, "known")).status_code == 200
        yield client


async def chat(client: httpx2.AsyncClient, model: str) -> httpx2.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    return await client.post("/v1/chat/completions", json=body)


def told_to_come_back(answer: httpx2.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"]["code"] == "database_unavailable"
    assert answer.json()["error"]["type"] == "server_error"
    assert 1 <= int(answer.headers["retry-after"]) <= 60


@pytest.mark.parametrize("state", ["cut", "silent"])
async def test_chat_goes_on_and_what_needs_the_database_is_a_503(
    state: State, wire: tuple[Wire, str], tiny_base: BaseModel, tiny_lora: Path, tmp_path: Path
) -> None:
    to_database, url = wire
    async with served(Settings(home=tmp_path, database_url=url), tiny_base, tiny_lora) as client:
        before = (await chat(client, "known")).json()
        to_database.be(state)
        began = time.monotonic()
        during = await chat(client, "known")
        assert time.monotonic() - began < 5
        assert during.json()["system_fingerprint"] == before["system_fingerprint"] != ""
        assert (await chat(client, "tiny")).status_code == 200
        told_to_come_back(await chat(client, "unasked"))
        told_to_come_back(await chat(client, "no-such-model"))
        answers = await asyncio.gather(*(client.request(how, path, **more) for how, path, more in NEEDING))
        for answer in answers:
            told_to_come_back(answer)
        assert not list((tmp_path / "files").iterdir())
        assert (await client.get("/health/ready")).status_code == 200
        to_database.be("through")
        assert (await client.get("/v1/models")).status_code == 200
        assert (await chat(client, "unasked")).status_code == 200
        assert (await chat(client, "no-such-model")).status_code == 404


async def test_a_restarted_server_is_found_again_at_once(
    postgres: PostgresCluster, tiny_base: BaseModel, tiny_lora: Path, tmp_path: Path
) -> None:
    url = postgres.url(postgres.new_database("brie_1"))
    async with served(Settings(home=tmp_path, database_url=url), tiny_base, tiny_lora) as client:
        postgres.stop()
        told_to_come_back(await client.get("/v1/models"))
        assert (await chat(client, "known")).status_code == 200
        postgres.start()
        for _ in range(3):
            assert (await client.get("/v1/models")).status_code == 200


async def test_an_sqlite_that_another_holds_is_a_503_for_writers_alone(
    tiny_base: BaseModel, tiny_lora: Path, tmp_path: Path
) -> None:
    async with served(Settings(home=tmp_path), tiny_base, tiny_lora) as client:
        with closing(sqlite3.connect(tmp_path / "brie.sqlite3", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            how, path, more = NEEDING[4]
            told_to_come_back(await client.request(how, path, **more))
            assert not list((tmp_path / "files").iterdir())
            assert (await chat(client, "unasked")).status_code == 200
            assert (await client.get("/v1/models")).status_code == 200
        assert (await client.request(how, path, **more)).status_code == 200
