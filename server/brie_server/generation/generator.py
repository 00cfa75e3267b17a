"""Requests from name and text to pieces of text. It knows engines, adapters and tokenizers; no HTTP, no schema."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from brie_core.errors import ContextLengthExceeded, InvalidRequest
from brie_core.text.codec import TextCodec
from brie_server.adapters.residency import Residency, Stay
from brie_server.engine.base import Engine, Form, Logprobs, Prompt, Sampling
from brie_server.generation.answer_text import AnswerText, Piece
from brie_server.generation.conversation import Conversation, render
from brie_server.generation.interleaving import first_of_each, interleaved
from brie_server.generation.tool_answer import ToolAnswer
from brie_server.generation.tool_prompt import Offer

_SHORT = 2000
"""Characters whose tokens are found in about a millisecond, which is not worth another thread."""
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """What to continue, by which model, and how."""

    model: str
    prompt_ids: Sequence[int]
    prompt_param: str = "prompt"
    """The field that it came from, for whoever is told that it cannot be honoured."""
    max_tokens: int | None
    """None generates until the model stops or its context is full."""
    limit_param: str = "max_tokens"
    """The field that this came from."""
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
    form: Form | None = None
    """What the answer has to be; with a prompt that begins it, what follows there."""


@dataclass(frozen=True, slots=True)
class Room:
    """How many answers an engine takes on at once, and how many more it would now."""

    most: int
    left: int


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one model that have begun together: the first token of each is there."""

    id: str
    version: str | None
    """Digest of the adapter version that answers; None is the base model."""
    pieces: AsyncIterator[tuple[int, Piece]]
    """Those of all answers as they come, each with its request's number."""
    aclose: Callable[[], Awaitable[None]]
    """Stop, and let engine and adapter go; no error once all pieces were taken. Nobody may be waiting for a piece."""
    prompt_logprobs: tuple[tuple[Logprobs | None, ...] | None, ...]
    """By request: where they were asked for, one for each token of the prompt; None for its first."""
    room: Room
    """When they had begun."""


class Generator:
    """Answers text requests from one engine."""

    def __init__(self, engine: Engine, tokenizer: TextCodec, residency: Residency) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._residency = residency
        self._num_open = 0

    @property
    def context_length(self) -> int:
        """Tokens that prompt and answer may have together."""
        return self._engine.info().context_length

    async def chat_prompt(self, model: str, conversation: Conversation) -> list[int]:
        """The conversation as the model reads it; NotFound before any work is done."""
        await self._residency.check(model)
        return await _worked(
            conversation.is_plain_and_below(_SHORT),
            lambda: self._tokenizer.encode(render(self._tokenizer, conversation)),
        )

    async def text_prompts(
        self, model: str, prompts: Sequence[str | list[int]], *, with_special: bool = True
    ) -> list[list[int]]:
        """Plain texts to continue, with whatever the tokenizer puts before a text; token ids are taken as they are.

        NotFound before any work is done.
        """
        await self._residency.check(model)
        if not any(isinstance(prompt, str) for prompt in prompts):
            return [list(prompt) for prompt in prompts if not isinstance(prompt, str)]
        is_short = sum(map(len, prompts)) < _SHORT
        return await _worked(is_short, lambda: [self._encode(prompt, with_special) for prompt in prompts])

    def text_of(self, prompt_ids: Sequence[int]) -> str:
        """What these tokens say, special ones left out."""
        return self._tokenizer.decode(prompt_ids)

    def spell(self, token: int) -> bytes:
        """A token's own bytes, which need not be whole characters."""
        return self._tokenizer.piece(token)

    def _encode(self, prompt: str | list[int], with_special: bool) -> list[int]:  # noqa: FBT001
        return prompt if isinstance(prompt, list) else self._tokenizer.encode(prompt, add_special_tokens=with_special)

    async def begin(self, requests: Sequence[TextRequest]) -> Answers:
        """Start answering requests of one model; returns once the first token of each is there.

        So every refusal comes before the first byte, and one that is refused ends all. All are answered by the version
        that the name points at now. Raises NotFound for an unknown model, ContextLengthExceeded, Overloaded,
        InvalidAdapter.
        """
        readers = [self._reader(request) for request in requests]
        stay = await self._residency.enter(requests[0].model)
        stays = [stay, *(self._residency.share(stay) for _ in requests[1:])]
        try:
            prompts = [self._prompt(request, stay.version) for request in requests]
            sources = [self._pieces(*each) for each in zip(prompts, readers, stays, strict=True)]
            firsts = await (first_of_each(sources) if len(sources) > 1 else _only(sources[0]))
        except BaseException:
            for held in stays:
                held.leave()
            raise
        whole = interleaved([_chain(first, rest) for first, rest in zip(firsts, sources, strict=True)])

        async def aclose() -> None:
            for source in (whole, *sources):
                await source.aclose()

        told = tuple(first.prompt_logprobs for first in firsts)
        return Answers(secrets.token_hex(12), stay.version, whole, aclose, told, self._room())

    def _room(self) -> Room:
        most = self._engine.info().max_requests
        return Room(most, max(most - self._num_open, 0))

    def _prompt(self, request: TextRequest, version: str | None) -> Prompt:
        context = self.context_length
        length = len(request.prompt_ids)
        if length == 0:
            raise InvalidRequest("The prompt is empty: give at least one token.", param=request.prompt_param)
        room = context - length
        if room < 1 or (request.max_tokens or 1) > room:
            raise ContextLengthExceeded(
                f"This model's context is {context} tokens; the prompt has {length} and {request.max_tokens or 1} were "
                "asked for. Shorten the prompt or ask for fewer tokens.",
                param=request.limit_param if room >= 1 else request.prompt_param,
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
            form=request.form,
        )

    def _reader(self, request: TextRequest) -> AnswerText | ToolAnswer:
        """What turns this answer's tokens into pieces."""
        if request.offer is None:
            return AnswerText(self._tokenizer.decode, request.stop, request.min_tokens)
        return ToolAnswer(self._tokenizer, request.offer, request.stop, request.min_tokens)

    async def _pieces(self, prompt: Prompt, answer: AnswerText | ToolAnswer, stay: Stay) -> AsyncGenerator[Piece, None]:
        """Leaving this generator, in whatever way, aborts the request and lets its adapter go."""
        self._num_open += 1
        try:
            async with aclosing(self._engine.generate(prompt)) as tokens:
                async for token in tokens:
                    piece = answer.add(token)
                    yield piece
                    if piece.finish is not None:
                        return
        finally:
            self._num_open -= 1
            stay.leave()


async def _worked(is_short: bool, work: Callable[[], _Result]) -> _Result:  # noqa: FBT001
    return work() if is_short else await asyncio.to_thread(work)


async def _only(source: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [await anext(source)]


async def _chain(first: Piece, rest: AsyncIterator[Piece]) -> AsyncIterator[Piece]:
    yield first
    async for piece in rest:
        yield piece
