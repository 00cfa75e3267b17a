"""What /v1/responses is asked, on the wire. What it answers stands in `response_objects`."""

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from brie_server.schema.answer_form import TextFormat
from brie_server.schema.common import Body, Flag, Ignored, Metadata, Name, Refused, StreamOptions, TokenCount
from brie_server.schema.conditions import ABSENT, SOME_INPUT, where
from brie_server.schema.response_items import Input, InputItem
from brie_server.schema.response_tools import FlatToolChoice, FlatTools
from brie_server.schema.sampling import Alternatives, AnswerBody

LOGPROBS = "message.output_text.logprobs"
Includable = Literal[
    "message.output_text.logprobs",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
"""All but the first are parts of items that no answer here has: there is nothing to include."""


def _includable(names: list[Any] | None) -> list[Any] | None:
    if unknown := [name for name in names or () if name not in get_args(Includable)]:
        raise ValueError(f"{str(unknown[0])[:40]!r} is none of {', '.join(get_args(Includable))}")
    return names


def _only_included(number: int | None, info: ValidationInfo) -> int | None:
    if number and LOGPROBS not in (info.data.get("include") or ()):
        raise ValueError(f"give it together with include: [{LOGPROBS!r}]")
    return number


def _something(items: list[InputItem], info: ValidationInfo) -> list[InputItem]:
    if not items and not info.data.get("previous_response_id"):
        raise ValueError("give a text or at least one item")
    return items


def _no_reasoning(reasoning: dict[str, Any] | None) -> dict[str, Any] | None:
    if any(value not in (None, "none") for value in (reasoning or {}).values()):
        raise ValueError("this server does not reason apart from its answer; leave it out")
    return reasoning


def _not_cut(truncation: Any) -> Any:
    if truncation not in (None, "disabled"):
        raise ValueError("only 'disabled' is supported: a prompt that is too long is an error")
    return truncation


def _one_tier(tier: Any) -> Any:
    if tier not in (None, "auto", "default"):
        raise ValueError("there is one tier: 'auto' and 'default' are the same")
    return tier


def _named_otherwise(number: Any) -> Any:
    if number is not None:
        raise ValueError("here it is called max_output_tokens")
    return number


_NONE = {"type": ["object", "null"], "additionalProperties": {"enum": [None, "none"]}}
_INCLUDABLE = {"type": ["array", "null"], "items": {"enum": list(get_args(Includable))}}
_INCLUDED_LOGPROBS = where(
    {"top_logprobs": {"type": "integer", "minimum": 1}}, {"include": {"type": "array", "contains": {"const": LOGPROBS}}}
)


class TextOptions(Body):
    """What the answer's text has to be."""

    format: TextFormat | None = None
    verbosity: Ignored = None


class ResponseStreamOptions(StreamOptions):
    """Options of a stream of events, which always tells the usage."""

    include_obfuscation: Refused = None


class Asking(Body):
    """What a response is made from, which may also only be counted."""

    model_config = ConfigDict(json_schema_extra=SOME_INPUT)

    previous_response_id: Name | None = None
    input: Annotated[Input, AfterValidator(_something)] = Field(default_factory=list, validate_default=True)
    instructions: str | None = None
    tools: FlatTools | None = None
    tool_choice: FlatToolChoice | None = None
    parallel_tool_calls: Flag | None = None
    text: TextOptions | None = None
    truncation: Annotated[Any, AfterValidator(_not_cut), WithJsonSchema({"enum": [None, "disabled"]})] = None
    reasoning: Annotated[dict[str, Any] | None, AfterValidator(_no_reasoning), WithJsonSchema(_NONE)] = None

    conversation: Refused = None


class CountRequest(Asking):
    """The body of a count of input tokens."""

    model: Name | None = None
    personality: Refused = None


class ResponseRequest(Asking, AnswerBody):
    """The body of a response. `stop`, `seed`, the penalties, `logit_bias` and vLLM's fields are as in chats."""

    model_config = ConfigDict(json_schema_extra={"allOf": [SOME_INPUT, _INCLUDED_LOGPROBS]})

    stream_options: ResponseStreamOptions | None = None
    max_output_tokens: TokenCount | None = None
    max_tokens: Annotated[Any, AfterValidator(_named_otherwise), WithJsonSchema(ABSENT)] = None
    include: Annotated[list[Any] | None, AfterValidator(_includable), WithJsonSchema(_INCLUDABLE)] = None
    top_logprobs: Annotated[Alternatives | None, AfterValidator(_only_included)] = None
    store: Flag | None = None
    metadata: Metadata | None = None
    service_tier: Annotated[Any, AfterValidator(_one_tier), WithJsonSchema({"enum": [None, "auto", "default"]})] = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    background: Refused = None
    context_management: Refused = None
    max_tool_calls: Refused = None
    moderation: Refused = None
    prompt: Refused = None
    prompt_cache_options: Refused = None
    prompt_logprobs: Refused = None

    prompt_cache_retention: Ignored = None

    @property
    def is_kept(self) -> bool:
        """Whether the response may be asked for later, and built upon."""
        return self.store is not False

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives each token is told with; None for no logprobs."""
        return self.top_logprobs or 0 if LOGPROBS in (self.include or ()) else None
