"""Clients that go away in every way and at every moment: nothing of them is left in a real server in this process."""

import asyncio
import gc
import json
import socket
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import torch
import uvicorn

from brie_core.settings import Settings
from brie_core.weights.base_model import BaseModel
from brie_core.weights.gguf_model import ServedModel
from brie_server.adapters.residency import Residency
from brie_server.app import create_app
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.scheduler import Limits, Scheduler

NUM_ABORTS = 500
AT_ONCE = 10


@dataclass
class Serving:
    """A server in this event loop, and what a test may look at inside of it."""

    port: int
    scheduler: Scheduler
    residency: Residency
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection; closed at the end if not before."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def post(self, body: dict[str, Any], path: str = "/v1/completions") -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a whole answer, on a connection of its own."""
        reader, writer = await self.connect()
        writer.write(request(body, path, "connection: close\r\n"))
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        writer.close()
        return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), content

    async def idle(self) -> None:
        """Return once nobody is in the engine and nobody holds an adapter."""
        await until(lambda: self.scheduler.is_idle and not self.residency.num_users)


async def until(holds: Callable[[], bool]) -> None:
    """Look until it holds: what is looked at belongs to another thread, and tells nobody."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def request(body: dict[str, Any], path: str = "/v1/completions", headers: str = "") -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


def completion(model: str = "tiny", **fields: Any) -> dict[str, Any]:
    return {"model": model, "prompt": "Who was Spinoza?", "temperature": 0, "max_tokens": 300} | fields


def response(model: str = "tiny", **fields: Any) -> dict[str, Any]:
    asked = {"model": model, "input": "Who was Spinoza?", "temperature": 0, "max_output_tokens": 300, "stream": True}
    return asked | fields


@pytest.fixture
async def serve(tiny_base: BaseModel, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Serving]]]:
    """Starts a server over the tiny model with these limits of its engine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    running: list[tuple[uvicorn.Server, asyncio.Task[None], Serving]] = []

    async def start(**limits: int) -> Serving:
        engines: list[TorchEngine] = []

        def make(_settings: Settings, _base: ServedModel) -> TorchEngine:
            engines.append(TorchEngine(tiny_base, torch.device("cpu"), torch.float32, Limits(**limits)))
            return engines[-1]

        app = create_app(Settings(home=tmp_path, adapter_roots=(tmp_path.parent,)), tiny_base, make)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
        server.capture_signals = nullcontext  # type: ignore[assignment]  # pytest keeps its own
        listening = socket.create_server(("127.0.0.1", 0))
        task = asyncio.create_task(server.serve([listening]))
        await until(lambda: server.started)
        scheduler: Any = engines[0]._thread._scheduler
        serving = Serving(listening.getsockname()[1], scheduler, app.state["services"].residency)
        running.append((server, task, serving))
        return serving

    yield start
    for server, task, serving in running:
        for writer in serving.writers:
            writer.transport.abort()
        server.should_exit = True
        await task
    torch.set_num_threads(threads)


async def before_the_first_token(serving: Serving, chance: Random, model: str) -> None:
    _, writer = await serving.connect()
    writer.write(request(completion(model, stream=True)))
    await writer.drain()
    await asyncio.sleep(chance.choice([0, 0, 0.001, 0.005, 0.02]))
    leave(writer, chance)


async def in_mid_stream(serving: Serving, chance: Random, model: str) -> None:
    reader, writer = await serving.connect()
    chat = {"model": model, "messages": [{"role": "user", "content": "Who was Spinoza?"}], "stream": True}
    writer.write(request(chat, "/v1/chat/completions"))
    for _ in range(chance.randint(1, 12)):
        await reader.readuntil(b"data: ")
    leave(writer, chance)


async def in_mid_response(serving: Serving, chance: Random, model: str) -> None:
    reader, writer = await serving.connect()
    writer.write(request(response(model), "/v1/responses"))
    for _ in range(chance.randint(1, 12)):
        await reader.readuntil(b"event: ")
    leave(writer, chance)


async def without_streaming(serving: Serving, chance: Random, model: str) -> None:
    _, writer = await serving.connect()
    writer.write(request(completion(model)))
    await writer.drain()
    await asyncio.sleep(chance.choice([0, 0.001, 0.01, 0.05]))
    leave(writer, chance)


async def while_texts_are_embedded(serving: Serving, chance: Random, model: str) -> None:
    _, writer = await serving.connect()
    texts = {"model": model, "input": [f"Who was Spinoza? {number}" for number in range(40)]}
    writer.write(request(texts, "/v1/embeddings"))
    await writer.drain()
    await asyncio.sleep(chance.choice([0, 0.001, 0.01, 0.05]))
    leave(writer, chance)


async def half_a_body(serving: Serving, chance: Random, model: str) -> None:
    _, writer = await serving.connect()
    whole = request(completion(model, stream=chance.random() < 0.5))
    writer.write(whole[: chance.randint(20, len(whole) - 1)])
    await writer.drain()
    await asyncio.sleep(chance.choice([0, 0.002]))
    leave(writer, chance)


async def while_a_second_request_waits_behind(serving: Serving, chance: Random, model: str) -> None:
    _, writer = await serving.connect()
    writer.write(request(completion(model, max_tokens=5)) + request(completion(model, stream=True)))
    await writer.drain()
    await asyncio.sleep(chance.choice([0, 0.01]))
    leave(writer, chance)


def leave(writer: asyncio.StreamWriter, chance: Random) -> None:
    """With a reset or with an end."""
    if chance.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()


KINDS = (
    before_the_first_token,
    in_mid_stream,
    in_mid_response,
    without_streaming,
    while_texts_are_embedded,
    half_a_body,
    while_a_second_request_waits_behind,
)


async def test_five_hundred_clients_that_leave_leave_nothing_behind(
    serve: Callable[..., Awaitable[Serving]], tiny_lora: Path
) -> None:
    """With two rows, most of them wait for one. Without the garbage collector, which must not be what cleans up."""
    serving = await serve(max_rows=2, max_waiting=100)
    loaded = await serving.post({"lora_name": "tuned", "lora_path": str(tiny_lora)}, "/v1/load_lora_adapter")
    assert loaded[0] == 200
    await asyncio.gather(*(answer(serving, "tuned") for _ in range(3 * AT_ONCE)))  # as many connections as will be
    right = [await answer(serving, model) for model in ("tiny", "tuned")]
    tasks, descriptors, chance = asyncio.all_tasks(), psutil.Process().num_fds(), Random(1)
    gc.collect()
    gc.disable()
    try:
        for _ in range(NUM_ABORTS // AT_ONCE):
            leaving = [chance.choice(KINDS)(serving, chance, chance.choice(["tiny", "tuned"])) for _ in range(AT_ONCE)]
            await asyncio.gather(*leaving)
        await serving.idle()
        await until(lambda: not asyncio.all_tasks() - tasks and psutil.Process().num_fds() <= descriptors)
        assert serving.scheduler.num_waiting == serving.scheduler.num_running == 0
    finally:
        gc.enable()
    async with asyncio.timeout(5):
        assert [await answer(serving, model) for model in ("tiny", "tuned")] == right


async def answer(serving: Serving, model: str) -> str:
    status, _, content = await serving.post(completion(model, max_tokens=20))
    assert status == 200
    text: str = json.loads(content)["choices"][0]["text"]
    return text


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_while_it_waits_loses_its_place(
    stream: bool, serve: Callable[..., Awaitable[Serving]]
) -> None:
    serving = await serve(max_rows=1, max_waiting=5)
    reader, holder = await serving.connect()
    holder.write(request(completion(stream=True, max_tokens=400)))
    await reader.readuntil(b"data: ")
    _, waiting = await serving.connect()
    waiting.write(request(completion(stream=stream)))
    await until(lambda: serving.scheduler.num_waiting == 1)
    waiting.close()
    await until(lambda: serving.scheduler.num_waiting == 0)
    assert [each.prompt.max_tokens for each in serving.scheduler.running] == [400]  # it left, and was not admitted
    holder.transport.abort()
    await serving.idle()


async def test_an_answer_that_is_not_read_to_its_end_leaves_the_connection_fit_for_the_next(
    serve: Callable[..., Awaitable[Serving]],
) -> None:
    """Watching for the disconnect must not eat the next request of the same connection."""
    serving = await serve()
    reader, writer = await serving.connect()
    bodies = []
    for _ in range(3):
        writer.write(request(completion(max_tokens=5)) + request(completion(max_tokens=5)))
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            bodies.append(json.loads(await reader.readexactly(length))["choices"])
    assert all(choices == bodies[0] for choices in bodies)


async def test_whoever_finds_the_queue_full_is_told_when_to_come_back(
    serve: Callable[..., Awaitable[Serving]],
) -> None:
    serving = await serve(max_rows=1, max_waiting=1)
    for _ in range(2):
        _, writer = await serving.connect()
        writer.write(request(completion(stream=True, max_tokens=400)))
    await until(lambda: serving.scheduler.num_running + serving.scheduler.num_waiting == 2)
    for stream in (True, False):
        status, headers, content = await serving.post(completion(stream=stream))
        assert (status, int(headers["retry-after"]) > 0) == (429, True)
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert json.loads(content)["error"]["code"] == "server_overloaded"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_response_that_nobody_waited_for_is_not_kept(
    stream: bool, serve: Callable[..., Awaitable[Serving]], tmp_path: Path
) -> None:
    serving = await serve()
    reader, writer = await serving.connect()
    writer.write(request(response(stream=stream, max_output_tokens=400), "/v1/responses"))
    if stream:
        await reader.readuntil(b"event: response.output_text.delta")
    else:
        await until(lambda: serving.scheduler.num_running == 1)
    writer.close()
    await serving.idle()
    assert num_kept(tmp_path) == 0
    status, _, _ = await serving.post(response(stream=stream, max_output_tokens=16), "/v1/responses")
    assert (status, num_kept(tmp_path)) == (200, 1)


def num_kept(home: Path) -> int:
    """How many responses are in the database."""
    with closing(sqlite3.connect(home / "brie.sqlite3")) as connection:
        number: int = connection.execute("SELECT count(*) FROM responses").fetchone()[0]
    return number
