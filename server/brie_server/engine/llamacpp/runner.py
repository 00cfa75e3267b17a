"""Runs steps: seats, adapter, decode, sampling; and holds the adapters. It knows no queue and no thread."""

from collections.abc import Callable
from typing import Any

import llama_cpp

from brie_server.engine.llamacpp.model import Context, Model
from brie_server.engine.llamacpp.sampler import sample
from brie_server.engine.llamacpp.scheduler import Step


class Runner:
    """Owns model, cache and adapters; `close` frees them."""

    def __init__(self, model: Model, context: Context) -> None:
        self._model, self._context = model, context
        self._adapters: dict[str, tuple[Any, int]] = {}
        self._in_use: str | None = None

    def run(self, step: Step) -> list[int | None]:
        """Compute a step; a token for each chunk that samples, None where the logits are no numbers."""
        for seat in step.seats:
            self._context.seat(seat)
        for place in step.emptied:
            self._context.cut(place, 0)
        if step.adapter != self._in_use:
            self._context.use(self._adapters[step.adapter][0] if step.adapter is not None else None)
            self._in_use = step.adapter
        logits = self._decode(step)
        sampling = (chunk.sequence for chunk in step.chunks if chunk.samples)
        return [sample(logits_V, sequence) for sequence, logits_V in zip(sampling, logits, strict=True)]

    def release(self) -> None:
        """The cache stays: its memory is llama.cpp's for good, and what it holds may be the next prompt's beginning."""

    def reset(self) -> None:
        """Nothing to do: a decode that failed has cut what it began."""

    def load_adapter(self, digest: str, load: Callable[[Model], tuple[Any, int]]) -> int:
        """Take an adapter in, as `load` makes it; returns its bytes. One that is there already stays."""
        if digest not in self._adapters:
            self._adapters[digest] = load(self._model)
        return self._adapters[digest][1]

    def adapter_bytes(self, digest: str) -> int | None:
        """The size of a loaded adapter; None for one that is not."""
        found = self._adapters.get(digest)
        return found[1] if found else None

    def unload_adapter(self, digest: str) -> None:
        """Free an adapter, and what was computed with it; an unknown one is no error."""
        if digest == self._in_use:
            self._context.use(None)
            self._in_use = None
        if digest in self._adapters:
            llama_cpp.llama_adapter_lora_free(self._adapters.pop(digest)[0])

    def close(self) -> None:
        """Free everything; the thread that ran the steps has ended."""
        self._context.close()
        self._model.close()

    def _decode(self, step: Step) -> Any:
        try:
            return self._context.decode(
                (chunk.token_ids, chunk.start, chunk.place, chunk.samples) for chunk in step.chunks
            )
        except RuntimeError:
            for chunk in step.chunks:  # a decode that failed may have computed a part of itself
                self._context.cut(chunk.place, chunk.start)
            raise
