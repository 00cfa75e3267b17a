"""POST /v1/chat/completions. It knows the wire and the generator, not how answers are made."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from litestar import Response, post
from litestar.params import JSONBody
from litestar.response import Stream

from brie_core.errors import EngineFailure
from brie_server.api.answers import answer_headers, text_request, usage_of, wants_usage
from brie_server.api.disconnects import while_connected
from brie_server.api.logprobs import chat_logprobs, prompt_logprobs
from brie_server.api.requests import JsonRequest
from brie_server.api.services import Given, Services
from brie_server.api.streaming import event_stream
from brie_server.api.tool_answers import answer_message, deltas
from brie_server.api.tool_messages import offer_of, template_messages
from brie_server.generation.answer_text import Piece, ScoredToken
from brie_server.generation.generator import Answer, TextRequest
from brie_server.schema.chat import (
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    ChunkChoice,
    Delta,
)
from brie_server.schema.common import Usage
from brie_server.schema.logprobs import ChatLogprobs


@post("/chat/completions", status_code=200, operation_id="createChatCompletion")
async def create_chat_completion(
    data: JSONBody[ChatRequest], services: Given, request: JsonRequest
) -> Response[ChatCompletion] | Stream:
    """Answer a conversation, whole or as a stream."""
    services.unknown_fields.note(data)
    return await while_connected(request, _respond(data, services))


async def _respond(data: ChatRequest, services: Services) -> Response[ChatCompletion] | Stream:
    request = await _text_request(data, services)
    answer = await services.generator.begin(request)
    if data.stream:
        return event_stream(_chunks(answer, data, services), answer_headers(answer), answer.aclose)
    whole = await _whole(answer, data, services)
    if answer.prompt_logprobs is not None:
        told = prompt_logprobs(request.prompt_ids, answer.prompt_logprobs, services.generator.spell)
        whole = whole.model_copy(update={"prompt_logprobs": told})
    return Response(whole, headers=answer_headers(answer))


async def _text_request(body: ChatRequest, services: Services) -> TextRequest:
    messages, offer = template_messages(body.messages), offer_of(body)
    prompt_ids = await services.generator.chat_prompt(body.model, messages, offer)
    request = text_request(body, prompt_ids, max_tokens=body.limit, logprobs=body.num_logprobs)
    return replace(request, offer=offer)


def _logprobs(tokens: Sequence[ScoredToken], body: ChatRequest, services: Services) -> ChatLogprobs | None:
    return chat_logprobs(tokens, services.generator.spell) if body.logprobs else None


async def _whole(answer: Answer, body: ChatRequest, services: Services) -> ChatCompletion:
    pieces = [piece async for piece in answer.pieces]
    last = pieces[-1]
    if last.finish is None:
        raise EngineFailure("The answer ended without a reason.")
    logprobs = _logprobs([token for piece in pieces for token in piece.tokens], body, services)
    return ChatCompletion(
        id=f"chatcmpl-{answer.id}",
        created=int(time.time()),
        model=body.model,
        choices=[ChatChoice(message=answer_message(pieces), logprobs=logprobs, finish_reason=last.finish)],
        usage=usage_of(answer, last),
        system_fingerprint=services.fingerprint(answer.version),
    )


async def _chunks(answer: Answer, body: ChatRequest, services: Services) -> AsyncIterator[ChatChunk]:
    """The role first, then text as it comes, then the reason it ended, then usage if asked for."""
    envelope = _Envelope(answer, body, services)
    yield envelope.chunk(Delta(role="assistant", content=None if body.tools else ""))
    last = Piece("", 0)
    async for last in answer.pieces:
        for delta, tokens in deltas(last):
            yield envelope.chunk(delta, _logprobs(tokens, body, services))
    yield envelope.chunk(Delta(), finish=last.finish)
    if wants_usage(body):
        yield envelope.usage(usage_of(answer, last))


class _Envelope:
    """The parts that all chunks of one answer share."""

    def __init__(self, answer: Answer, body: ChatRequest, services: Services) -> None:
        self._common = ChatChunk(
            id=f"chatcmpl-{answer.id}",
            object="chat.completion.chunk",
            created=int(time.time()),
            model=body.model,
            choices=[],
            system_fingerprint=services.fingerprint(answer.version),
            **({"usage": None} if wants_usage(body) else {}),
        )

    def chunk(self, delta: Delta, logprobs: ChatLogprobs | None = None, finish: str | None = None) -> ChatChunk:
        """One chunk of text."""
        choice = ChunkChoice(index=0, delta=delta, logprobs=logprobs, finish_reason=finish)
        return self._common.model_copy(update={"choices": [choice]})

    def usage(self, usage: Usage) -> ChatChunk:
        """The last chunk, without choices."""
        return self._common.model_copy(update={"usage": usage})
