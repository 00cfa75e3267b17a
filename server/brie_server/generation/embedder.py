"""Texts to vectors of length one. It knows engines and adapters; no HTTP, no schema, and of texts the tokens alone."""

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from brie_core.errors import ContextLengthExceeded, InvalidRequest
from brie_server.adapters.residency import Residency
from brie_server.engine.base import Embedding, Engine

_TOKENS_AT_ONCE = 512
"""Of one request's texts in the engine: enough to fill its steps, and few, as a chat that comes later waits behind."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What one model makes of several texts."""

    version: str | None
    """Digest of the adapter version whose hidden states these are; None is the base model."""
    vectors: Sequence[Embedding]
    """By text, each of length one."""


class Embedder:
    """Embeds texts by one engine."""

    def __init__(self, engine: Engine, residency: Residency) -> None:
        self._engine, self._residency = engine, residency

    def check_size(self, size: int | None) -> None:
        """Raises InvalidRequest where no embeddings are made, or none of so many numbers."""
        info = self._engine.info()
        if info.embedding_size is None:
            raise InvalidRequest(
                f"The {info.engine} engine makes no embeddings: serve the model's Hugging Face folder instead.",
                code="embeddings_unsupported",
            )
        if size not in (None, info.embedding_size):
            raise InvalidRequest(
                f"This model's embeddings have {info.embedding_size} numbers, and it was not trained for fewer to "
                "mean anything: leave dimensions out.",
                param="dimensions",
                code="invalid_value",
            )

    async def embed(self, model: str, texts: Sequence[Sequence[int]]) -> Embeddings:
        """All texts by the version that the name points at now; one that is refused ends all.

        Raises NotFound for an unknown model, InvalidRequest and ContextLengthExceeded with the text's number as
        `param`, Overloaded, InvalidAdapter.
        """
        for number, text in enumerate(texts):
            self._check_length(number, text)
        stay = await self._residency.enter(model)
        try:
            return Embeddings(stay.version, await self._vectors(texts, stay.version))
        finally:
            stay.leave()

    def _check_length(self, number: int, text: Sequence[int]) -> None:
        context = self._engine.info().context_length
        if len(text) > context:
            raise ContextLengthExceeded(
                f"This model's context is {context} tokens; input[{number}] has {len(text)}: shorten it.",
                param=f"input[{number}]",
            )

    async def _vectors(self, texts: Sequence[Sequence[int]], version: str | None) -> list[Embedding]:
        remaining = enumerate(texts)
        vectors: list[Embedding] = [()] * len(texts)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_num_at_once(texts, self._engine.info().max_batch)):
                    group.create_task(self._work(remaining, version, vectors))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return vectors

    async def _work(
        self, remaining: Iterator[tuple[int, Sequence[int]]], version: str | None, vectors: list[Embedding]
    ) -> None:
        for number, text in remaining:
            try:
                vectors[number] = _of_length_one(await self._engine.embed(tuple(text), version))
            except InvalidRequest as error:
                raise type(error)(error.message, param=f"input[{number}]", code=error.code) from error


def _num_at_once(texts: Sequence[Sequence[int]], most: int) -> int:
    """Two at least, so that the engine has the next one when it is done with one."""
    mean_length = max(1, sum(map(len, texts)) // len(texts))
    return min(len(texts), most, max(2, _TOKENS_AT_ONCE // mean_length))


def _of_length_one(vector: Embedding) -> Embedding:
    """A vector of zeros has no direction, and stays."""
    length = math.hypot(*vector) or 1.0
    return tuple(value / length for value in vector)
