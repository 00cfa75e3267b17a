"""POST /v1/completions. It knows the wire and the generator, not how answers are made."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace

from litestar import Response, post
from litestar.params import JSONBody
from litestar.response import Stream

from brie_server.api.answers import answer_headers, text_request, usage_of, wants_usage
from brie_server.api.disconnects import while_connected
from brie_server.api.logprobs import Spell, prompt_logprobs, text_logprobs
from brie_server.api.requests import JsonRequest
from brie_server.api.services import Given, Services
from brie_server.api.streaming import event_stream
from brie_server.generation.answer_text import Piece
from brie_server.generation.generator import Answer
from brie_server.schema.completions import Completion, CompletionChoice, CompletionRequest

DEFAULT_MAX_TOKENS = 16


@post("/completions", status_code=200, operation_id="createCompletion")
async def create_completion(
    data: JSONBody[CompletionRequest], services: Given, request: JsonRequest
) -> Response[Completion] | Stream:
    """Continue a text, whole or as a stream."""
    services.unknown_fields.note(data)
    return await while_connected(request, _respond(data, services))


async def _respond(data: CompletionRequest, services: Services) -> Response[Completion] | Stream:
    prompt_ids = await services.generator.text_prompt(data.model, data.prompt)
    max_tokens = data.max_tokens or DEFAULT_MAX_TOKENS
    request = text_request(data, prompt_ids, max_tokens=max_tokens, logprobs=data.logprobs)
    answer = await services.generator.begin(request)
    empty = Completion(
        id=f"cmpl-{answer.id}",
        object="text_completion",
        created=int(time.time()),
        model=data.model,
        choices=[],
        system_fingerprint=services.fingerprint(answer.version),
    )
    spell = services.generator.spell
    told = None if data.logprobs is None else spell
    if data.stream:
        parts = _parts(answer, empty, told, with_usage=wants_usage(data))
        return event_stream(parts, answer_headers(answer), answer.aclose)
    whole = await _whole(answer, empty, told)
    if answer.prompt_logprobs is not None:
        of_prompt = {"prompt_logprobs": prompt_logprobs(prompt_ids, answer.prompt_logprobs, spell)}
        whole = whole.model_copy(update={"choices": [whole.choices[0].model_copy(update=of_prompt)]})
    return Response(whole, headers=answer_headers(answer))


async def _whole(answer: Answer, empty: Completion, spell: Spell | None) -> Completion:
    pieces = [piece async for piece in answer.pieces]
    tokens = tuple(token for piece in pieces for token in piece.tokens)
    piece = replace(pieces[-1], text="".join(piece.text for piece in pieces), tokens=tokens)
    return _with(empty, piece, spell).model_copy(update={"usage": usage_of(answer, piece)})


async def _parts(
    answer: Answer, empty: Completion, spell: Spell | None, *, with_usage: bool
) -> AsyncIterator[Completion]:
    common = empty.model_copy(update={"usage": None}) if with_usage else empty
    last = Piece("", 0)
    async for last in answer.pieces:
        if last.text or last.tokens or last.finish:
            yield _with(common, last, spell)
    if with_usage:
        yield empty.model_copy(update={"usage": usage_of(answer, last)})


def _with(common: Completion, piece: Piece, spell: Spell | None) -> Completion:
    """With logprobs if it is said how tokens are spelled in them."""
    logprobs = text_logprobs(piece.tokens, spell) if spell else None
    choice = CompletionChoice(index=0, text=piece.text, logprobs=logprobs, finish_reason=piece.finish)
    return common.model_copy(update={"choices": [choice]})
