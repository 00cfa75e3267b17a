"""POST /v1/completions. It knows the wire and the generator, not how answers are made."""

import time
from collections.abc import AsyncIterator

from litestar import Response, post
from litestar.params import JSONBody
from litestar.response import Stream

from brie_server.api.answers import answer_headers, sampling_of, usage_of, wants_usage
from brie_server.api.disconnects import while_connected
from brie_server.api.requests import JsonRequest
from brie_server.api.services import Given, Services
from brie_server.api.streaming import event_stream
from brie_server.generation.generator import Answer, Piece, TextRequest
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
    request = TextRequest(
        model=data.model,
        prompt_ids=await services.generator.text_prompt(data.model, data.prompt),
        max_tokens=data.max_tokens or DEFAULT_MAX_TOKENS,
        stop=data.stop or (),
        sampling=sampling_of(data),
    )
    answer = await services.generator.begin(request)
    empty = Completion(
        id=f"cmpl-{answer.id}",
        object="text_completion",
        created=int(time.time()),
        model=data.model,
        choices=[],
        system_fingerprint=services.fingerprint(answer.version),
    )
    if data.stream:
        parts = _parts(answer, empty, with_usage=wants_usage(data))
        return event_stream(parts, answer_headers(answer), answer.aclose)
    return Response(await _whole(answer, empty), headers=answer_headers(answer))


async def _whole(answer: Answer, empty: Completion) -> Completion:
    pieces = [piece async for piece in answer.pieces]
    text = "".join(piece.text for piece in pieces)
    return _with(empty, text, pieces[-1].finish).model_copy(update={"usage": usage_of(answer, pieces[-1])})


async def _parts(answer: Answer, empty: Completion, *, with_usage: bool) -> AsyncIterator[Completion]:
    common = empty.model_copy(update={"usage": None}) if with_usage else empty
    last = Piece("", 0)
    async for last in answer.pieces:
        if last.text or last.finish:
            yield _with(common, last.text, last.finish)
    if with_usage:
        yield empty.model_copy(update={"usage": usage_of(answer, last)})


def _with(common: Completion, text: str, finish: str | None) -> Completion:
    choice = CompletionChoice(index=0, text=text, logprobs=None, finish_reason=finish)
    return common.model_copy(update={"choices": [choice]})
