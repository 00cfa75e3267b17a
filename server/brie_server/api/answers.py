"""What chat and text completions share: sampling from a body, usage and headers from an answer."""

from typing import Protocol

from brie_server.engine.base import Sampling
from brie_server.generation.generator import Answer, Piece
from brie_server.schema.common import StreamOptions, Usage


class SamplingBody(Protocol):
    """The fields that both request bodies have."""

    @property
    def temperature(self) -> float | None: ...
    @property
    def top_p(self) -> float | None: ...
    @property
    def seed(self) -> int | None: ...
    @property
    def stream_options(self) -> StreamOptions | None: ...


def sampling_of(body: SamplingBody) -> Sampling:
    """OpenAI's defaults where a field is left out."""
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
    )


def wants_usage(body: SamplingBody) -> bool:
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
