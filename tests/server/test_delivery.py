"""Each token is with its client before the engine makes the next: a real server over an engine that waits for that."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import nullcontext
from pathlib import Path

import uvicorn

from brie_core.settings import Settings
from brie_core.weights.base_model import BaseModel
from brie_server.app import create_app
from brie_server.engine.base import Prompt, Token
from scripted_engine import ScriptedEngine

NUM_STREAMS = 32
SAYS = "One step after the other, and none before it was heard."


class WaitingEngine(ScriptedEngine):
    """Makes the next token of an answer when it is told to."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.says = SAYS
        self.turns = {seed: asyncio.Semaphore(1) for seed in range(NUM_STREAMS)}

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        async for token in super().generate(prompt):
            await self.turns[prompt.sampling.seed or 0].acquire()
            yield token


async def listen(port: int, seed: int, engine: WaitingEngine) -> str:
    """The answer, of which each event lets the engine go on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    messages = [{"role": "user", "content": "Say it."}]
    body = json.dumps({"model": "tiny", "messages": messages, "stream": True, "seed": seed}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
    text = ""
    while (line := await reader.readline()) and line != b"data: [DONE]\n":
        if line.startswith(b"data: "):
            delta = json.loads(line[6:])["choices"][0]["delta"]
            text += delta.get("content") or ""
            if delta.get("content"):
                engine.turns[seed].release()
    writer.close()
    return text


async def test_no_stream_waits_for_its_next_token_to_tell_the_last(tiny_base: BaseModel, tmp_path: Path) -> None:
    engine = WaitingEngine(tiny_base.folder)
    app = create_app(Settings(home=tmp_path), tiny_base, lambda _settings, _base: engine)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5))
    server.capture_signals = nullcontext  # type: ignore[assignment]  # pytest keeps its own
    listening = socket.create_server(("127.0.0.1", 0))
    task = asyncio.create_task(server.serve([listening]))
    while not server.started:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0.01)
    try:
        async with asyncio.timeout(60):
            port = listening.getsockname()[1]
            texts = await asyncio.gather(*(listen(port, seed, engine) for seed in range(NUM_STREAMS)))
    finally:
        server.should_exit = True
        await task
    assert texts == [SAYS] * NUM_STREAMS
