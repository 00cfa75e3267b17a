"""What chat and text completions share: a request from a body, usage and headers from an answer."""

from brie_server.engine.base import Sampling
from brie_server.generation.answer_text import Piece
from brie_server.generation.generator import Answer, TextRequest
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


def usage_of(answer: Answer, last: Piece) -> Usage:
    """Token counts of a finished answer."""
    return Usage(
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=last.completion_tokens,
        total_tokens=answer.prompt_tokens + last.completion_tokens,
    )


def answer_headers(answer: Answer) -> dict[str, str]:
    """Which adapter version answers; `base` when none does."""
    return {"brie-adapter-version": answer.version or "base"}
