"""/v1/completions on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from brie_core.wire import Wire
from brie_server.schema.common import Flag, Ignored, Number, NumChoices, Refused, Usage
from brie_server.schema.conditions import MUTE_ECHO, WHOLE_PROMPT_LOGPROBS
from brie_server.schema.logprobs import OfPrompt, TextLogprobs
from brie_server.schema.sampling import AnswerBody, AnyCount

MOST_CHOICES = 256
_MOST_ID = 2**31 - 1
_TEXT = {"type": "string", "minLength": 1}
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": _MOST_ID}}
PROMPT_FORMS = [_TEXT, _IDS, {"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, _IDS]}}]


def _prompts(value: Any) -> Any:
    """One text, one list of token ids, or a list of either, as a list of prompts."""
    prompts = [value] if is_prompt(value) else value
    if not isinstance(prompts, list) or not prompts or not all(is_prompt(each) for each in prompts):
        raise ValueError(
            "give a string, a list of token ids, or a list of strings or of lists of token ids; none empty"
        )
    return prompts


def is_prompt(value: Any) -> bool:
    """A text or a list of token ids, and not an empty one."""
    return bool(value) and (isinstance(value, str) or (isinstance(value, list) and all(_is_id(each) for each in value)))


def _is_id(value: Any) -> bool:
    """JSON knows one kind of number: 5.0 is an integer."""
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return is_whole and not isinstance(value, bool) and 0 <= value <= _MOST_ID


Prompts = Annotated[list[str | list[int]], BeforeValidator(_prompts), WithJsonSchema({"anyOf": PROMPT_FORMS})]


class CompletionRequest(AnswerBody):
    """The body of a text completion."""

    model_config = ConfigDict(json_schema_extra={"allOf": [WHOLE_PROMPT_LOGPROBS, MUTE_ECHO]})

    prompt: Prompts
    max_tokens: AnyCount | None = None
    logprobs: Annotated[int, Field(ge=0, le=5), Number] | None = None
    n: NumChoices | None = None
    best_of: NumChoices | None = None
    echo: Flag | None = None

    response_format: Refused = None
    suffix: Refused = None

    user: Ignored = None

    @model_validator(mode="after")
    def _fits(self) -> "CompletionRequest":
        if self.best_of not in (None, self.num_each):
            raise ValueError("best_of must equal n: all answers are given, none is chosen")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is 0, which says something only with echo")
        if len(self.prompt) * self.num_each > MOST_CHOICES:
            raise ValueError(f"prompt and n ask for more than {MOST_CHOICES} answers at once")
        return self

    @property
    def num_each(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1


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
