"""/v1/completions on the wire."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from brie_core.wire import Wire
from brie_server.schema.common import (
    Body,
    Flag,
    Ignored,
    Name,
    Probability,
    Refused,
    Seed,
    Stop,
    StreamOptions,
    Temperature,
    TokenCount,
    Usage,
)


def _one_prompt(value: Any) -> Any:
    """OpenAI also allows lists of prompts and token ids."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        return value[0]
    if not isinstance(value, str):
        raise ValueError("give one prompt as a string; lists and token ids are not supported yet")
    return value


def _only_one(value: int) -> int:
    if value != 1:
        raise ValueError("only 1 is supported")
    return value


Prompt = Annotated[str, BeforeValidator(_one_prompt), Field(min_length=1)]
One = Annotated[int, AfterValidator(_only_one)]


class CompletionRequest(Body):
    """The body of a text completion."""

    model: Name
    prompt: Prompt
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    seed: Seed | None = None
    stop: Stop | None = None
    max_tokens: TokenCount | None = None
    n: One | None = None
    best_of: One | None = None

    echo: Refused = None
    frequency_penalty: Refused = None
    logit_bias: Refused = None
    logprobs: Refused = None
    presence_penalty: Refused = None
    suffix: Refused = None

    user: Ignored = None


class CompletionChoice(Wire):
    """One answer, or a streamed part of it."""

    index: int
    text: str
    logprobs: None
    finish_reason: str | None


class Completion(Wire):
    """A whole answer, or a part of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: Usage | None = None
