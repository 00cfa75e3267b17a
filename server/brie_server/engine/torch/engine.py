"""The torch engine as the rest of the server sees it: async calls in, tokens out. It knows no step and no tensor."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import torch

from brie_core.background import in_background
from brie_core.errors import BadConfiguration
from brie_core.weights.base_model import BaseModel
from brie_core.weights.lora import read_adapter
from brie_server.engine.base import Embedding, EngineInfo, Prompt, Sampling, Token
from brie_server.engine.promises import check_prompt, check_text
from brie_server.engine.thread import EngineThread
from brie_server.engine.torch.architecture import read_architecture
from brie_server.engine.torch.device import cache_bytes, choose_target
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence


class TorchEngine:
    """Answers from one base model and any number of adapters; see the contract in `engine.base`.

    Making one reads the model, which takes seconds, and starts its thread.
    """

    def __init__(
        self,
        base: BaseModel,
        device: torch.device,
        dtype: torch.dtype,
        limits: Limits,
        token_budget: int | None = None,
    ) -> None:
        """`token_budget` is the cache's size in tokens, by default what the device has room for.

        Raises BadConfiguration for a model that this engine cannot run, or that leaves no room for a cache.
        """
        self._base = base
        self._architecture = read_architecture(base.config)
        target = choose_target(device, dtype)
        runner = Runner(base, self._architecture, target)
        self._convert = runner.prepare_adapter
        budget = token_budget or cache_bytes(device) // (self._architecture.kv_values_per_token * target.dtype.itemsize)
        if budget < limits.smallest_capacity:
            raise BadConfiguration(f"{base.id} leaves no memory on {device} for the keys and values of an answer.")
        self._info = EngineInfo(
            engine="torch",
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            context_length=min(base.context_length, budget),
            max_batch=limits.max_rows,
            max_requests=limits.max_requests,
            embedding_size=self._architecture.hidden_size,
        )
        scheduler = Scheduler(limits, token_budget=budget, context_length=self._info.context_length)
        self._thread = EngineThread(scheduler, runner)

    def info(self) -> EngineInfo:
        """What this engine runs on; the context is shorter than the model's where memory is."""
        return self._info

    def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        """Tokens as they are sampled; nothing happens before the first is asked for.

        Raises InvalidRequest, ContextLengthExceeded, NotFound for an adapter that is not loaded, Overloaded,
        EngineFailure, and NotReady once the engine is closed.
        """
        return self._thread.answers(lambda: self._sequence(prompt))

    async def embed(self, token_ids: tuple[int, ...], adapter: str | None = None) -> Embedding:
        """The mean of the last hidden states; a text takes its place in steps and queue as a prompt does.

        Raises as `generate` does.
        """
        return await self._thread.embedding(lambda: self._text(token_ids, adapter))

    async def load_adapter(self, digest: str, folder: Path) -> int:
        """Read, check and convert the adapter on a thread of its own; the engine's thread only takes it in.

        That is not waited for: it does so before it looks at any request that is sent after this one.
        """
        adapter = await in_background(self._prepare, folder)
        self._thread.call(lambda runner: runner.load_adapter(digest, adapter))
        num_bytes: int = adapter.num_bytes
        return num_bytes

    async def unload_adapter(self, digest: str) -> None:
        """Free the adapter; requests that still use it fail."""
        await asyncio.wrap_future(self._thread.unload(digest))

    async def aclose(self) -> None:
        """Fail what runs with NotReady, and free the device; may be called twice."""
        self._thread.close()
        await asyncio.to_thread(self._thread.join)

    def _prepare(self, folder: Path) -> Any:
        adapter = read_adapter(folder, self._base.linear_modules)
        return self._convert(adapter)

    def _sequence(self, prompt: Prompt) -> Sequence:
        check_prompt(prompt, self._architecture.vocab_size, self._info.context_length)
        return Sequence(prompt)

    def _text(self, token_ids: tuple[int, ...], adapter: str | None) -> Sequence:
        check_text(token_ids, self._architecture.vocab_size, self._info.context_length)
        nothing_follows = Prompt(
            token_ids=token_ids, max_tokens=0, stop_ids=frozenset(), sampling=Sampling(temperature=0), adapter=adapter
        )
        return Sequence(nothing_follows)
