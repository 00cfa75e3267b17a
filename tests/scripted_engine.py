"""An engine that says what a test tells it to, and the app over it. It knows no model."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx2
from litestar import Litestar
from openai import AsyncOpenAI

from brie_core.errors import EngineFailure
from brie_core.settings import Settings
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import open_base_model
from brie_server.app import create_app
from brie_server.engine.base import Embedding, EngineInfo, FinishReason, Logprobs, Prompt, Token
from databases import database_url_of

EOS = 2


class ScriptedEngine:
    """Says `says`, token by token, whatever it is asked; then ends by a stop token, or for want of room."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer(folder)
        self.says = ""
        self.end = FinishReason.STOP
        self.prompts: list[Prompt] = []
        self.num_said = 0

    @property
    def was_shown(self) -> str:
        """The last prompt as text."""
        return self.tokenizer.decode(self.prompts[-1].token_ids, skip_special_tokens=False)

    def info(self) -> EngineInfo:
        return EngineInfo(
            engine="scripted", device="cpu", dtype="none", context_length=100_000, max_batch=1, max_requests=10
        )

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        self.prompts.append(prompt)
        self.num_said = 0
        ids = self.tokenizer.encode(self.says) + ([EOS] if self.end is FinishReason.STOP else [])
        for number, token in enumerate(ids, 1):
            self.num_said += 1
            logprobs = None if prompt.logprobs is None else Logprobs(-float(number), 1, ())
            yield Token(token, self.end if number == len(ids) else None, logprobs)

    async def embed(self, token_ids: tuple[int, ...], adapter: str | None = None) -> Embedding:
        raise NotImplementedError

    async def load_adapter(self, digest: str, folder: Path) -> int:
        raise NotImplementedError

    async def unload_adapter(self, digest: str) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        pass


class ConversationEngine(ScriptedEngine):
    """Says what the conversation itself wants: turn by turn what `<script>[...]</script>` in it lists, as JSON strings.

    So that clients in other processes can have it said, any number at once. The turn null is a failure.
    """

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        shown = self.tokenizer.decode(prompt.token_ids, skip_special_tokens=False)
        found = re.search(r"<script>(.*?)</script>", shown, re.DOTALL)
        turns = json.loads(found[1]) if found else []
        says = turns[shown.count("<|im_start|>assistant") - 1]
        for number, token in enumerate(ids := [*self.tokenizer.encode(says or "I fail"), EOS], 1):
            if says is None and number == len(ids):
                raise EngineFailure("This was to fail.")
            yield Token(token, FinishReason.STOP if number == len(ids) else None, None)


@asynccontextmanager
async def scripted(folder: Path, home: Path) -> AsyncIterator[tuple[ScriptedEngine, AsyncOpenAI]]:
    """The engine over a model folder of which only the text is used, and the unmodified SDK before it."""
    engine = ScriptedEngine(folder)
    base = open_base_model("scripted", folder, home / "digests.json")
    app = create_app(Settings(home=home, database_url=database_url_of(home)), base, lambda _settings, _base: engine)
    transport = httpx2.ASGITransport(app=cast("Any", app))
    async with _living(app), httpx2.AsyncClient(transport=transport) as http:
        client = AsyncOpenAI(
            base_url="http://127.0.0.1/v1",
            api_key="none",
            http_client=http,
            max_retries=0,
            _strict_response_validation=True,
        )
        yield engine, client


@asynccontextmanager
async def _living(app: Litestar) -> AsyncIterator[None]:
    """The lifespan in a task of its own, as servers have it: pytest ends a fixture in another than it began in."""
    begun, over = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with app.lifespan():
            begun.set()
            await over.wait()

    task, beginning = asyncio.create_task(live()), asyncio.create_task(begun.wait())
    await asyncio.wait((task, beginning), return_when=asyncio.FIRST_COMPLETED)
    beginning.cancel()
    yield
    over.set()
    await task
