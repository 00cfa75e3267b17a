"""POST /v1/chat/completions. It knows the wire and the generator, not how answers are made."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from litestar import Response, post
from litestar.params import JSONBody
from litestar.response import Stream

from brie_core.errors import InvalidRequest
from brie_server.api.answer_forms import asked_form, content_of_chat
from brie_server.api.answers import answer_headers, gathered, text_request, times, usage_of, wants_usage
from brie_server.api.conversations import conversation_of
from brie_server.api.disconnects import while_connected
from brie_server.api.logprobs import chat_logprobs, prompt_logprobs
from brie_server.api.requests import JsonRequest
from brie_server.api.services import Given, Services
from brie_server.api.streaming import event_stream
from brie_server.api.tool_answers import answer_message, deltas
from brie_server.api.tool_messages import offer_of
from brie_server.engine.base import Form
from brie_server.generation.answer_text import Piece, ScoredToken
from brie_server.generation.generator import Answers, TextRequest
from brie_server.generation.tool_prompt import Offer
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
    answers = await services.generator.begin(times(request, data.num_choices))
    if data.stream:
        return event_stream(_chunks(answers, request, data, services), answer_headers(answers), answers.aclose)
    whole = await _whole(answers, request, data, services)
    if (scored := answers.prompt_logprobs[0]) is not None:
        told = prompt_logprobs(request.prompt_ids, scored, services.generator.spell)
        whole = whole.model_copy(update={"prompt_logprobs": told})
    return Response(whole, headers=answer_headers(answers))


async def _text_request(body: ChatRequest, services: Services) -> TextRequest:
    offer = offer_of(body)
    form = await _form(body, offer, services)
    prompt_ids = await services.generator.chat_prompt(body.model, conversation_of(body, body.messages, offer))
    request = text_request(body, prompt_ids, max_tokens=body.limit, logprobs=body.num_logprobs)
    named = replace(request, prompt_param="messages", limit_param=body.limit_param)
    return replace(named, offer=offer, form=form)


async def _form(body: ChatRequest, offer: Offer | None, services: Services) -> Form | None:
    content = content_of_chat(body.response_format)
    if content and body.continue_final_message:
        raise InvalidRequest(
            "What is added to a message cannot be held to a form: leave out one of response_format and "
            "continue_final_message.",
            param="response_format",
        )
    asked = asked_form(content, offer)
    return None if asked is None else await services.forms.compiled(asked)


def _logprobs(tokens: Sequence[ScoredToken], body: ChatRequest, services: Services) -> ChatLogprobs | None:
    return chat_logprobs(tokens, services.generator.spell) if body.logprobs else None


async def _whole(answers: Answers, request: TextRequest, body: ChatRequest, services: Services) -> ChatCompletion:
    pieces = await gathered(answers, body.num_choices)
    return ChatCompletion(
        id=f"chatcmpl-{answers.id}",
        created=int(time.time()),
        model=body.model,
        choices=[_choice(index, each, body, services) for index, each in enumerate(pieces)],
        usage=usage_of([request.prompt_ids], (each[-1] for each in pieces)),
        system_fingerprint=services.fingerprint(answers.version),
    )


def _choice(index: int, pieces: Sequence[Piece], body: ChatRequest, services: Services) -> ChatChoice:
    logprobs = _logprobs([token for piece in pieces for token in piece.tokens], body, services)
    return ChatChoice(
        index=index, message=answer_message(pieces), logprobs=logprobs, finish_reason=str(pieces[-1].finish)
    )


async def _chunks(
    answers: Answers, request: TextRequest, body: ChatRequest, services: Services
) -> AsyncIterator[ChatChunk]:
    """For each answer its role first, then text as it comes and the reason it ended; at last usage if asked for."""
    envelope = _Envelope(answers, body, services)
    lasts = [Piece("", 0)] * body.num_choices
    for index in range(body.num_choices):
        yield envelope.chunk(index, Delta(role="assistant", content=None if body.tools else ""))
    async for index, piece in answers.pieces:
        lasts[index] = piece
        for delta, tokens in deltas(piece):
            yield envelope.chunk(index, delta, _logprobs(tokens, body, services))
        if piece.finish:
            yield envelope.chunk(index, Delta(), finish=piece.finish)
    if wants_usage(body):
        yield envelope.usage(usage_of([request.prompt_ids], lasts))


class _Envelope:
    """The parts that all chunks of one request share."""

    def __init__(self, answers: Answers, body: ChatRequest, services: Services) -> None:
        self._common = ChatChunk(
            id=f"chatcmpl-{answers.id}",
            object="chat.completion.chunk",
            created=int(time.time()),
            model=body.model,
            choices=[],
            system_fingerprint=services.fingerprint(answers.version),
            **({"usage": None} if wants_usage(body) else {}),
        )

    def chunk(
        self, index: int, delta: Delta, logprobs: ChatLogprobs | None = None, finish: str | None = None
    ) -> ChatChunk:
        """One chunk of an answer."""
        choice = ChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish)
        return self._common.model_copy(update={"choices": [choice]})

    def usage(self, usage: Usage) -> ChatChunk:
        """The last chunk, without choices."""
        return self._common.model_copy(update={"usage": usage})
