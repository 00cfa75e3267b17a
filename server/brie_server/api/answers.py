"""What chat and text completions share: requests from a body, usage and headers from answers."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from brie_core.errors import EngineFailure, Overloaded
from brie_server.engine.base import Sampling
from brie_server.generation.answer_text import Piece
from brie_server.generation.generator import Answers, TextRequest
from brie_server.schema.common import Usage
from brie_server.schema.sampling import AnswerBody


def text_request(
    body: AnswerBody, prompt_ids: list[int], *, max_tokens: int | None, logprobs: int | None
) -> TextRequest:
    """What a body asks of the generator; the prompt and what the two APIs name differently are given."""
    return TextRequest(
        model=body.model,
        prompt_ids=prompt_ids,
        max_tokens=max_tokens,
        stop=body.stop or (),
        sampling=_sampling(body),
        stop_ids=frozenset(body.stop_token_ids or ()),
        ignores_end=body.ignore_eos or False,
        min_tokens=body.min_tokens or 0,
        logprobs=logprobs,
        prompt_logprobs=body.prompt_logprobs,
    )


def _sampling(body: AnswerBody) -> Sampling:
    """OpenAI's and vLLM's defaults where a field is left out."""
    return Sampling(
        logit_bias=tuple((body.logit_bias or {}).items()),
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        temperature=1.0 if body.temperature is None else body.temperature,
        min_p=body.min_p or 0.0,
        top_k=max(body.top_k or 0, 0),
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
    )


def wants_usage(body: AnswerBody) -> bool:
    """Whether a stream is to end with a chunk of usage."""
    return body.stream_options is not None and body.stream_options.include_usage


def times(request: TextRequest, number: int) -> list[TextRequest]:
    """The same request so often, each with a seed of its own if there is one; the first keeps it."""
    seed = request.sampling.seed
    if seed is None:
        return [request] * number
    seeds = ((seed + index + 2**63) % 2**64 - 2**63 for index in range(number))
    return [replace(request, sampling=replace(request.sampling, seed=each)) for each in seeds]


async def gathered(answers: Answers, number: int) -> list[list[Piece]]:
    """All pieces of each of the `number` answers; raises EngineFailure for one that ended without a reason."""
    pieces: list[list[Piece]] = [[] for _ in range(number)]
    async for index, piece in answers.pieces:
        pieces[index].append(piece)
    if any(each[-1].finish is None for each in pieces):
        raise EngineFailure("The answer ended without a reason.")
    return pieces


def usage_of(prompts: Iterable[Sequence[int]], lasts: Iterable[Piece]) -> Usage:
    """Token counts of finished answers; a prompt that several of them share counts once."""
    prompt_tokens = sum(len(prompt) for prompt in prompts)
    completion_tokens = sum(last.completion_tokens for last in lasts)
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )


def version_header(version: str | None) -> dict[str, str]:
    """Which adapter version answers, `base` when none does."""
    return {"brie-adapter-version": version or "base"}


def answer_headers(answers: Answers) -> dict[str, str]:
    """The version that answers, and how many more requests would be taken on now.

    There is no limit per minute: a place is free again as soon as an answer ends.
    """
    return version_header(answers.version) | {
        "x-ratelimit-limit-requests": str(answers.room.most),
        "x-ratelimit-remaining-requests": str(answers.room.left),
        "x-ratelimit-reset-requests": "0s" if answers.room.left else f"{Overloaded.retry_after}s",
    }
