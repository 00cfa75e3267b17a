"""/v1/completions on the wire."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from brie_core.wire import Wire
from brie_server.schema.common import Ignored, Number, Refused, Usage
from brie_server.schema.logprobs import OfPrompt, TextLogprobs
from brie_server.schema.sampling import AnswerBody

_MOST_ID = 2**31 - 1


def _one_prompt(value: Any) -> Any:
    """One text, or one list of token ids; OpenAI also allows lists of either, of which Brie takes those of one."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str) or (isinstance(value, list) and all(_is_id(token) for token in value)):
        return value
    raise ValueError("give one prompt, as a string or a list of token ids; lists of prompts are not supported yet")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_ID


def _only_one(value: int) -> int:
    if value != 1:
        raise ValueError("only 1 is supported")
    return value


Prompt = Annotated[str | list[int], BeforeValidator(_one_prompt), Field(min_length=1)]
One = Annotated[int, AfterValidator(_only_one)]


class CompletionRequest(AnswerBody):
    """The body of a text completion."""

    prompt: Prompt
    logprobs: Annotated[int, Number, Field(ge=0, le=5)] | None = None
    n: One | None = None
    best_of: One | None = None

    echo: Refused = None
    suffix: Refused = None

    user: Ignored = None


class CompletionChoice(Wire):
    """One answer, or a streamed part of it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None
    prompt_logprobs: OfPrompt = None


class Completion(Wire):
    """A whole answer, or a part of a streamed one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    system_fingerprint: str
    usage: Usage | None = None
