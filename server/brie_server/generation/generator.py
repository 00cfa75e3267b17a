"""One request from name and text to pieces of text. It knows engines, adapters and tokenizers; no HTTP, no schema."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from brie_core.errors import ContextLengthExceeded, InvalidRequest
from brie_core.text.chat_template import Message
from brie_core.text.codec import TextCodec
from brie_server.adapters.residency import Residency, Stay
from brie_server.engine.base import Engine, Logprobs, Prompt, Sampling
from brie_server.generation.answer_text import AnswerText, Piece
from brie_server.generation.tool_answer import ToolAnswer
from brie_server.generation.tool_prompt import Offer, render_chat


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """What to continue, by which model, and how."""

    model: str
    prompt_ids: Sequence[int]
    max_tokens: int | None
    """None generates until the model stops or its context is full."""
    stop: Sequence[str]
    sampling: Sampling
    stop_ids: frozenset[int] = frozenset()
    """Tokens that end the answer besides the model's own."""
    ignores_end: bool = False
    """Whether the model's own do not."""
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    offer: Offer | None = None
    """Tools that the answer may call; the prompt has to show them."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that has begun: its first token is there."""

    id: str
    prompt_tokens: int
    version: str | None
    """Digest of the adapter version that answers; None is the base model."""
    pieces: AsyncIterator[Piece]
    aclose: Callable[[], Awaitable[None]]
    """Stop, and let engine and adapter go; no error once all pieces were taken. Nobody may be waiting for a piece."""
    prompt_logprobs: tuple[Logprobs | None, ...] | None = None
    """Where they were asked for, one for each token of the prompt; None for its first."""


class Generator:
    """Answers text requests from one engine."""

    def __init__(self, engine: Engine, tokenizer: TextCodec, residency: Residency) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._residency = residency

    async def chat_prompt(self, model: str, messages: Sequence[Message], offer: Offer | None = None) -> list[int]:
        """The conversation as the model reads it, ready for the assistant's turn; NotFound before any work is done."""
        await self._residency.check(model)
        return await asyncio.to_thread(self._render_and_encode, messages, offer)

    async def text_prompt(self, model: str, prompt: str | list[int]) -> list[int]:
        """Plain text to continue, with whatever the tokenizer puts before a text; token ids are taken as they are.

        NotFound before any work is done.
        """
        await self._residency.check(model)
        if not isinstance(prompt, str):
            return prompt
        return await asyncio.to_thread(self._tokenizer.encode, prompt, add_special_tokens=True)

    def spell(self, token: int) -> bytes:
        """A token's own bytes, which need not be whole characters."""
        return self._tokenizer.piece(token)

    def _render_and_encode(self, messages: Sequence[Message], offer: Offer | None) -> list[int]:
        return self._tokenizer.encode(render_chat(self._tokenizer, messages, offer))

    async def begin(self, request: TextRequest) -> Answer:
        """Start answering; returns once the first token is there, so that every refusal comes before the first byte.

        Raises NotFound for an unknown model, ContextLengthExceeded, Overloaded, InvalidAdapter.
        """
        reader = self._reader(request)
        stay = await self._residency.enter(request.model)
        try:
            prompt = self._prompt(request, stay.version)
        except BaseException:
            stay.leave()
            raise
        pieces = self._pieces(prompt, reader, stay)
        first = await anext(pieces)
        answer_id, whole = secrets.token_hex(12), _chain(first, pieces)
        return Answer(answer_id, len(prompt.token_ids), stay.version, whole, pieces.aclose, first.prompt_logprobs)

    def _prompt(self, request: TextRequest, version: str | None) -> Prompt:
        context = self._engine.info().context_length
        length = len(request.prompt_ids)
        if length == 0:
            raise InvalidRequest("The prompt is empty: give at least one token.", param="prompt")
        room = context - length
        if room < 1 or (request.max_tokens or 1) > room:
            raise ContextLengthExceeded(
                f"This model's context is {context} tokens; the prompt has {length} and {request.max_tokens or 1} were "
                "asked for. Shorten the prompt or ask for fewer tokens.",
                param="max_tokens" if room >= 1 else None,
            )
        return Prompt(
            token_ids=tuple(request.prompt_ids),
            max_tokens=request.max_tokens or room,
            stop_ids=request.stop_ids if request.ignores_end else request.stop_ids | self._tokenizer.stop_ids,
            sampling=request.sampling,
            adapter=version,
            min_tokens=request.min_tokens,
            logprobs=request.logprobs,
            prompt_logprobs=request.prompt_logprobs,
        )

    def _reader(self, request: TextRequest) -> AnswerText | ToolAnswer:
        """What turns this answer's tokens into pieces."""
        if request.offer is None:
            return AnswerText(self._tokenizer.decode, request.stop, request.min_tokens)
        return ToolAnswer(self._tokenizer, request.offer, request.stop, request.min_tokens)

    async def _pieces(self, prompt: Prompt, answer: AnswerText | ToolAnswer, stay: Stay) -> AsyncGenerator[Piece, None]:
        """Leaving this generator, in whatever way, aborts the request and lets its adapter go."""
        try:
            async with aclosing(self._engine.generate(prompt)) as tokens:
                async for token in tokens:
                    piece = answer.add(token)
                    yield piece
                    if piece.finish is not None:
                        return
        finally:
            stay.leave()


async def _chain(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece
