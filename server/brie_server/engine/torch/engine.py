"""The torch engine as the rest of the server sees it: async calls in, tokens out. It knows no step and no tensor."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import torch

from brie_core.errors import BadConfiguration, BrieError, ContextLengthExceeded, InvalidRequest
from brie_core.weights.base_model import BaseModel
from brie_core.weights.lora import check_values, read_adapter
from brie_server.engine.base import EngineInfo, Prompt, Token
from brie_server.engine.torch.architecture import read_architecture
from brie_server.engine.torch.device import cache_bytes
from brie_server.engine.torch.lora import DeviceAdapter, adapter_dtype, put_on_device
from brie_server.engine.torch.runner import Runner
from brie_server.engine.torch.scheduler import Limits, Scheduler
from brie_server.engine.torch.sequence import Sequence
from brie_server.engine.torch.thread import EngineThread, Request


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
        self._base, self._device, self._dtype = base, device, dtype
        self._architecture = read_architecture(base.config)
        runner = Runner(base, self._architecture, device, dtype)
        budget = token_budget or cache_bytes(device) // (self._architecture.kv_values_per_token * dtype.itemsize)
        if budget < limits.smallest_capacity:
            raise BadConfiguration(f"{base.id} leaves no memory on {device} for the keys and values of an answer.")
        self._info = EngineInfo(
            engine="torch",
            device=str(device),
            dtype=str(dtype).removeprefix("torch."),
            context_length=min(base.context_length, budget),
            max_batch=limits.max_rows,
        )
        scheduler = Scheduler(limits, token_budget=budget, context_length=self._info.context_length)
        self._thread = EngineThread(scheduler, runner)

    def info(self) -> EngineInfo:
        """What this engine runs on; the context is shorter than the model's where memory is."""
        return self._info

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        """Tokens as they are sampled; nothing happens before the first is asked for.

        Raises InvalidRequest, ContextLengthExceeded, NotFound for an adapter that is not loaded, Overloaded,
        EngineFailure, and NotReady once the engine is closed.
        """
        self._check(prompt)
        request = Request(Sequence(prompt), asyncio.get_running_loop())
        self._thread.submit(request)
        try:
            while True:
                answer = await request.answers.get()
                if isinstance(answer, BrieError):
                    raise answer
                yield answer
                if answer.finish:
                    return
        finally:
            # nothing may be awaited here: when a client has gone, every await raises at once
            self._thread.abort(request)

    async def load_adapter(self, digest: str, folder: Path) -> int:
        """Read, check and convert the adapter on a thread of its own; the engine's thread only takes it in."""
        known = await asyncio.wrap_future(self._thread.call(lambda runner: runner.adapter_bytes(digest)))
        if known is not None:
            return known
        adapter = await asyncio.to_thread(self._prepare, folder)
        return await asyncio.wrap_future(self._thread.call(lambda runner: runner.load_adapter(digest, adapter)))

    async def unload_adapter(self, digest: str) -> None:
        """Free the adapter; requests that still use it fail."""
        await asyncio.wrap_future(self._thread.unload(digest))

    async def aclose(self) -> None:
        """Fail what runs with NotReady, and free the device; may be called twice."""
        self._thread.close()
        await asyncio.to_thread(self._thread.join)

    def _prepare(self, folder: Path) -> DeviceAdapter:
        adapter = read_adapter(folder, self._base.linear_modules)
        check_values(adapter)
        return put_on_device(adapter, self._architecture, self._device, adapter_dtype(self._device, self._dtype))

    def _check(self, prompt: Prompt) -> None:
        num_tokens, context_length = len(prompt.token_ids) + prompt.max_tokens, self._info.context_length
        if not prompt.token_ids or prompt.max_tokens < 1:
            raise InvalidRequest("A prompt needs at least one token, and an answer too.")
        # on CUDA an id outside of the embedding would end the process's device for good
        if not 0 <= min(prompt.token_ids) <= max(prompt.token_ids) < self._architecture.vocab_size:
            raise InvalidRequest(f"Token ids run from 0 to {self._architecture.vocab_size - 1}.")
        if num_tokens > context_length:
            raise ContextLengthExceeded(
                f"The context is {context_length} tokens; prompt and answer ask for {num_tokens}: shorten one of them.",
            )
