"""POST /v1/responses, and the count of its input. It knows the wire, the generator and the store, and reads no item."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from litestar import Response, post
from litestar.params import JSONBody
from litestar.response import Stream

from brie_core.errors import EngineFailure, InvalidRequest
from brie_core.store.responses import new_item_id, new_response_id
from brie_server.api.answer_forms import asked_form, content_of_response
from brie_server.api.answers import answer_headers, text_request
from brie_server.api.disconnects import while_connected
from brie_server.api.kept_responses import items_of
from brie_server.api.logprobs import chat_logprobs
from brie_server.api.requests import JsonRequest
from brie_server.api.response_input import KeptItem, chat_messages
from brie_server.api.response_output import ResponseOutput
from brie_server.api.response_states import begun, failed, finished
from brie_server.api.services import Given, Services
from brie_server.api.streaming import named_event_stream, told
from brie_server.api.tool_messages import offer_of, template_messages
from brie_server.engine.base import Form
from brie_server.generation.answer_text import Piece
from brie_server.generation.conversation import Conversation
from brie_server.generation.generator import Answers, TextRequest
from brie_server.schema.response_objects import ErrorEvent, InputTokens, ResponseEvent, ResponseObject, StreamEvent
from brie_server.schema.responses import Asking, CountRequest, ResponseRequest


@post("/responses", status_code=200, operation_id="createResponse")
async def create_response(
    data: JSONBody[ResponseRequest], services: Given, request: JsonRequest
) -> Response[ResponseObject] | Stream:
    """Answer items, whole or as a stream of events, and keep the answer unless that is not wanted."""
    services.unknown_fields.note(data)
    return await while_connected(request, _respond(data, services))


@post("/responses/input_tokens", status_code=200, operation_id="getInputTokenCounts")
async def count_input_tokens(data: JSONBody[CountRequest], services: Given) -> InputTokens:
    """How many tokens the same body would be read as."""
    services.unknown_fields.note(data)
    items = await items_of(data, new_response_id(), services)
    model = services.base.id if data.model is None else data.model
    return InputTokens(input_tokens=len(await _prompt_ids(model, data, items, services)))


@dataclass(frozen=True, slots=True)
class _Answering:
    """A response on its way."""

    response: ResponseObject
    items: Sequence[KeptItem]
    prompt_ids: Sequence[int]
    answers: Answers
    output: ResponseOutput


async def _respond(data: ResponseRequest, services: Services) -> Response[ResponseObject] | Stream:
    response = begun(data, new_response_id(), int(time.time()))
    items = await items_of(data, response.id, services)
    request = await _text_request(data, items, services)
    answers = await services.generator.begin([request])
    numbers = count()
    output = _output(response.id, len(items), numbers, services)
    answering = _Answering(response, items, request.prompt_ids, answers, output)
    if data.stream:
        events = _events(answering, numbers, services)
        return named_event_stream(events, answer_headers(answers), answers.aclose)
    last = Piece("", 0)
    async for _, last in answers.pieces:
        output.add(last)
    return Response(await _finished(answering, last, services), headers=answer_headers(answers))


async def _text_request(body: ResponseRequest, items: Sequence[KeptItem], services: Services) -> TextRequest:
    form = await _form(body, services)
    prompt_ids = await _prompt_ids(body.model, body, items, services)
    request = text_request(body, prompt_ids, max_tokens=body.max_output_tokens, logprobs=body.num_logprobs)
    request = replace(request, prompt_param="input", limit_param="max_output_tokens")
    return replace(request, prompt_logprobs=None, offer=offer_of(body), form=form)


async def _form(body: ResponseRequest, services: Services) -> Form | None:
    asked = asked_form(content_of_response(body.text.format if body.text else None), offer_of(body))
    try:
        return None if asked is None else await services.forms.compiled(asked)
    except InvalidRequest as error:
        param = (error.param or "").replace(".function.", ".").replace("response_format", "text.format")
        raise InvalidRequest(error.message, param=param) from error


async def _prompt_ids(model: str, body: Asking, items: Sequence[KeptItem], services: Services) -> list[int]:
    messages = template_messages(chat_messages(body.instructions, items))
    return await services.generator.chat_prompt(model, Conversation(messages=messages, offer=offer_of(body)))


def _output(response_id: str, num_items: int, numbers: "count[int]", services: Services) -> ResponseOutput:
    """Its items are numbered after those of the input."""
    return ResponseOutput(
        lambda prefix, number: new_item_id(response_id, prefix, num_items + number),
        lambda tokens: chat_logprobs(tokens, services.generator.spell).content,
        numbers,
    )


async def _events(answering: _Answering, numbers: "count[int]", services: Services) -> AsyncIterator[StreamEvent]:
    """The response as it begins, all that is told of its items, and the response as it ended."""
    response, last = answering.response, Piece("", 0)

    def standing(kind: str, stands: ResponseObject) -> ResponseEvent:
        return ResponseEvent(type=f"response.{kind}", sequence_number=next(numbers), response=stands)

    try:
        yield standing("created", response)
        yield standing("in_progress", response)
        async for _, last in answering.answers.pieces:
            for event in answering.output.add(last):
                yield event
        whole = await _finished(answering, last, services)
        yield standing(whole.status, whole)
    except Exception as fault:  # noqa: BLE001  # it is told, and logged if it is our fault
        error = told(fault)
        details = error.envelope()["error"]
        yield ErrorEvent(
            type="error",
            sequence_number=next(numbers),
            code=error.code,
            message=error.message,
            param=error.param,
            error=details,
        )
        yield standing("failed", failed(response, error))


async def _finished(answering: _Answering, last: Piece, services: Services) -> ResponseObject:
    """The response with its answer, which is kept before anyone is told: the next request may name it at once."""
    if last.finish is None:
        raise EngineFailure("The answer ended without a reason.")
    now = int(time.time())
    whole = finished(answering.response, answering.output.items, answering.prompt_ids, last, now)
    if whole.store:
        kept = services.responses.save(whole.model_dump(mode="json"), answering.items)
        await asyncio.shield(kept)  # a client that leaves now must not cut a transaction in two
    return whole
