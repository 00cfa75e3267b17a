"""The llama.cpp engine as the rest of the server sees it: async calls in, tokens out. It knows no step."""

import asyncio
import os
from collections.abc import AsyncGenerator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import llama_cpp

from brie_core.background import in_background
from brie_core.durable import staging_folder
from brie_core.errors import BadConfiguration, InvalidRequest
from brie_core.weights.gguf_adapter import write_gguf_adapter
from brie_core.weights.gguf_model import GgufModel
from brie_core.weights.lora import check_values, read_adapter
from brie_server.engine.base import Embedding, EngineInfo, Prompt, Sampling, Token
from brie_server.engine.llamacpp.model import CACHE_TYPES, Context, Model, Shape
from brie_server.engine.llamacpp.runner import Runner
from brie_server.engine.llamacpp.scheduler import Limits, Scheduler
from brie_server.engine.llamacpp.sequence import Sequence
from brie_server.engine.promises import check_prompt
from brie_server.engine.thread import EngineThread

_APPLIED = frozenset(
    {
        *("logit_bias", "repetition_penalty", "frequency_penalty", "presence_penalty"),
        *("temperature", "min_p", "top_k", "top_p", "seed"),
    }
)
"""What its sampler knows: a field that the contract gains is refused until it is written there."""
_USUAL_CELLS = 16_384
"""Tokens of all sequences together; a model with a longer context gets as many as that."""
_CACHE_SHARE = 0.25
"""Of the machine's memory, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the settings say."""

    device: str = "auto"
    dtype: str = "auto"
    tmp: Path
    """Where adapters are written for llama.cpp to read."""


class LlamaCppEngine:
    """Answers from one GGUF file and adapters that take turns on it; see the contract in `engine.base`.

    Making one reads the model, which takes seconds, and starts its thread.
    """

    def __init__(self, base: GgufModel, options: Options, limits: Limits, num_cells: int | None = None) -> None:
        """`num_cells` is the cache's size in tokens, by default what is usual or what there is room for.

        Raises BadConfiguration for a file that llama.cpp does not run.
        """
        self._base, self._tmp = base, options.tmp
        offload = _offloads(options.device)
        dtype = "float16" if options.dtype == "auto" else options.dtype
        if dtype not in CACHE_TYPES:
            raise BadConfiguration(f"BRIE_DTYPE={dtype}: here it is the cache's type, one of {', '.join(CACHE_TYPES)}.")
        model = Model(base.file, offload=offload)
        cells = num_cells or _num_cells(model, dtype)
        self._vocab_size = model.vocab_size
        self._info = EngineInfo(
            engine="llamacpp",
            device="gpu" if offload else "cpu",
            dtype=dtype,
            context_length=min(model.context_length, cells),
            max_batch=limits.max_places,
            max_requests=limits.max_requests,
        )
        scheduler = Scheduler(limits, num_cells=cells, reuses=model.keeps_parts)
        self._runner = Runner(model, _context(model, limits, cells, dtype))
        self._thread: EngineThread[Sequence, Runner] = EngineThread(scheduler, self._runner)

    def info(self) -> EngineInfo:
        """What this engine runs on; `dtype` is that of the cache, the weights' is the file's own."""
        return self._info

    def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        """Tokens as they are sampled; nothing happens before the first is asked for.

        Raises InvalidRequest, ContextLengthExceeded, NotFound for an adapter that is not loaded, Overloaded,
        EngineFailure, and NotReady once the engine is closed.
        """
        return self._thread.answers(lambda: self._sequence(prompt))

    async def embed(self, token_ids: tuple[int, ...], adapter: str | None = None) -> Embedding:
        """Raises InvalidRequest: llama.cpp would hold hidden states and logits for each token of a step."""
        raise InvalidRequest(
            "The llamacpp engine makes no embeddings: serve the model's Hugging Face folder.",
            code="embeddings_unsupported",
        )

    async def load_adapter(self, digest: str, folder: Path) -> int:
        """Check and write the adapter on a thread of its own; the engine's thread has llama.cpp read it."""
        known = await asyncio.wrap_future(self._thread.call(lambda runner: runner.adapter_bytes(digest)))
        if known is not None:
            return known
        with staging_folder(self._tmp, "llamacpp") as staged:
            file = staged / "adapter.gguf"
            await in_background(self._write, folder, file)
            size = file.stat().st_size
            load = self._thread.call(
                lambda runner: runner.load_adapter(digest, lambda model: (model.load_adapter(file), size))
            )
            return await asyncio.wrap_future(load)

    async def unload_adapter(self, digest: str) -> None:
        """Free the adapter; requests that still use it fail."""
        await asyncio.wrap_future(self._thread.unload(digest))

    async def aclose(self) -> None:
        """Fail what runs with NotReady, and free everything; may be called twice."""
        self._thread.close()
        await asyncio.to_thread(self._thread.join)
        self._runner.close()

    def _write(self, folder: Path, file: Path) -> None:
        adapter = read_adapter(folder, self._base.linear_modules)
        check_values(adapter)
        write_gguf_adapter(file, adapter, self._base)

    def _sequence(self, prompt: Prompt) -> Sequence:
        check_prompt(prompt, self._vocab_size, self._info.context_length)
        if prompt.prompt_logprobs is not None:  # llama.cpp would hold a row of logits for each token of a step
            raise InvalidRequest(
                "The llamacpp engine does not tell the logprobs of a prompt: leave prompt_logprobs out.",
                param="prompt_logprobs",
            )
        _check_sampling(prompt.sampling)
        return Sequence(prompt)


def _check_sampling(sampling: Sampling) -> None:
    for field in fields(Sampling):
        value: Any = getattr(sampling, field.name)
        if field.name not in _APPLIED and value != field.default:
            raise InvalidRequest(f"The llamacpp engine does not know {field.name}: leave it out.", param=field.name)


def _offloads(device: str) -> bool:
    """Whether llama.cpp is to use a GPU; raises BadConfiguration where it was built without one."""
    can = bool(llama_cpp.llama_supports_gpu_offload())
    if device in ("cuda", "mps") and not can:
        raise BadConfiguration(
            f"BRIE_DEVICE={device}, but this llama-cpp-python was built for the CPU alone: install one for {device}."
        )
    return device != "cpu" and can


def _num_cells(model: Model, dtype: str) -> int:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    room = int(memory * _CACHE_SHARE) // model.cache_bytes(dtype)
    return min(max(_USUAL_CELLS, model.context_length), room)


def _num_threads() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _context(model: Model, limits: Limits, num_cells: int, dtype: str) -> Context:
    try:
        return Context(model, Shape(num_cells, limits.max_places, limits.largest_step, _num_threads(), dtype))
    except BadConfiguration:
        model.close()
        raise
