"""POST /v1/completions. It knows the wire and the generator, not how answers are made."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from litestar import Response, post
from litestar.params import JSONBody
from litestar.response import Stream

from brie_server.api.answers import answer_headers, gathered, text_request, times, usage_of, wants_usage
from brie_server.api.disconnects import while_connected
from brie_server.api.requests import JsonRequest
from brie_server.api.services import Given, Services
from brie_server.api.streaming import event_stream
from brie_server.api.text_choices import TextChoice
from brie_server.generation.answer_text import Piece
from brie_server.generation.generator import Answers, Generator, TextRequest
from brie_server.schema.completions import Completion, CompletionRequest

DEFAULT_MAX_TOKENS = 16


@post("/completions", status_code=200, operation_id="createCompletion")
async def create_completion(
    data: JSONBody[CompletionRequest], services: Given, request: JsonRequest
) -> Response[Completion] | Stream:
    """Continue a text or several, whole or as a stream."""
    services.unknown_fields.note(data)
    return await while_connected(request, _respond(data, services))


async def _respond(data: CompletionRequest, services: Services) -> Response[Completion] | Stream:
    prompts = await services.generator.text_prompts(data.model, data.prompt)
    requests = [each for prompt in prompts for each in times(_request(data, prompt), data.num_each)]
    answers = await services.generator.begin(requests)
    choices = _choices(data, prompts, services.generator)
    common = _common(data, answers, services)
    if data.stream:
        parts = _parts(answers, choices, common, prompts if wants_usage(data) else None)
        return event_stream(parts, answer_headers(answers), answers.aclose)
    gained = await gathered(answers, len(choices))
    heard = [[choice.heard(piece) for piece in pieces] for choice, pieces in zip(choices, gained, strict=True)]
    each = zip(choices, heard, answers.prompt_logprobs, strict=True)
    whole = {
        "choices": [choice.whole(pieces, scored) for choice, pieces, scored in each],
        "usage": usage_of(prompts, (pieces[-1] for pieces in heard)),
    }
    return Response(common.model_copy(update=whole), headers=answer_headers(answers))


def _request(body: CompletionRequest, prompt_ids: list[int]) -> TextRequest:
    """With an echo, logprobs are those of the prompt too."""
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else max(body.max_tokens, 1)
    request = text_request(body, prompt_ids, max_tokens=max_tokens, logprobs=body.logprobs)
    if body.echo and body.logprobs is not None:
        return replace(request, prompt_logprobs=max(body.logprobs, body.prompt_logprobs or 0))
    return request


def _choices(body: CompletionRequest, prompts: Sequence[Sequence[int]], generator: Generator) -> list[TextChoice]:
    """The answers to the first prompt, then those to the second, and so on."""
    return [
        TextChoice(
            index=number * body.num_each + copy,
            prompt_ids=ids,
            echo=_echo(given, generator) if body.echo else "",
            spell=generator.spell,
            tells_logprobs=body.logprobs is not None,
            tells_prompt_logprobs=body.prompt_logprobs is not None,
            is_mute=body.max_tokens == 0,
        )
        for number, (given, ids) in enumerate(zip(body.prompt, prompts, strict=True))
        for copy in range(body.num_each)
    ]


def _echo(given: str | Sequence[int], generator: Generator) -> str:
    return given if isinstance(given, str) else generator.text_of(given)


def _common(body: CompletionRequest, answers: Answers, services: Services) -> Completion:
    return Completion(
        id=f"cmpl-{answers.id}",
        object="text_completion",
        created=int(time.time()),
        model=body.model,
        choices=[],
        system_fingerprint=services.fingerprint(answers.version),
    )


async def _parts(
    answers: Answers, choices: Sequence[TextChoice], common: Completion, usage_from: Sequence[Sequence[int]] | None
) -> AsyncIterator[Completion]:
    """Echoes, then what comes as it comes; at last, if it is wanted, the usage with these prompts."""
    parts = common if usage_from is None else common.model_copy(update={"usage": None})
    for choice, scored in zip(choices, answers.prompt_logprobs, strict=True):
        if choice.echo:
            yield parts.model_copy(update={"choices": [choice.beginning(scored)]})
    lasts = [Piece("", 0)] * len(choices)
    async for index, piece in answers.pieces:
        lasts[index] = heard = choices[index].heard(piece)
        if heard.text or heard.tokens or heard.finish:
            yield parts.model_copy(update={"choices": [choices[index].part(heard)]})
    if usage_from is not None:
        yield common.model_copy(update={"usage": usage_of(usage_from, lasts)})
