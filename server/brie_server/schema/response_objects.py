"""What /v1/responses answers, on the wire: the response, its items, and the events of a stream."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from brie_core.wire import Wire
from brie_server.schema.logprobs import ChatLogprob

_T = TypeVar("_T")
Told = Annotated[_T | None, Field(exclude_if=lambda value: value is None)]
"""Left out where there is none: OpenAI's schema has no null there."""


class OutputText(Wire):
    """The text of a message."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[Any] = Field(default_factory=list)
    logprobs: list[ChatLogprob] = Field(default_factory=list)


class OutputMessage(Wire):
    """What was said."""

    id: str
    type: Literal["message"] = "message"
    status: Literal["in_progress", "completed", "incomplete"]
    role: Literal["assistant"] = "assistant"
    content: list[OutputText]


class FunctionCall(Wire):
    """A function that is to be called."""

    id: str
    type: Literal["function_call"] = "function_call"
    status: Literal["in_progress", "completed", "incomplete"]
    call_id: str
    name: str
    arguments: str
    """JSON, as the model wrote it."""


OutputItem = OutputMessage | FunctionCall


class InputDetails(Wire):
    """OpenAI's details of a prompt. What the engine kept of earlier prompts is not counted."""

    cached_tokens: Literal[0] = 0
    cache_write_tokens: Literal[0] = 0


class OutputDetails(Wire):
    """OpenAI's details of an answer."""

    reasoning_tokens: Literal[0] = 0


class ResponseUsage(Wire):
    """Tokens of one response."""

    input_tokens: int
    input_tokens_details: InputDetails = InputDetails()
    output_tokens: int
    output_tokens_details: OutputDetails = OutputDetails()
    total_tokens: int


class IncompleteDetails(Wire):
    """Why an answer broke off."""

    reason: Literal["max_output_tokens"] = "max_output_tokens"


class FailureDetails(Wire):
    """Why there is no answer; `code` is one of OpenAI's."""

    code: str
    message: str


class NoReasoning(Wire):
    """How the model is to reason: not apart from its answer."""

    effort: None = None
    summary: None = None


class ResponseObject(Wire):
    """A response, finished or not, with what it was asked with."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False] = False
    completed_at: int | None = None
    error: FailureDetails | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None = None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: NoReasoning = NoReasoning()
    safety_identifier: str | None
    service_tier: Literal["default"] = "default"
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["disabled"] = "disabled"
    usage: Told[ResponseUsage] = None
    user: Told[str] = None


class InputTokens(Wire):
    """How many tokens an input is."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class StreamEvent(Wire):
    """Anything that a stream tells; numbered from 0."""

    type: str
    sequence_number: int


class ResponseEvent(StreamEvent):
    """The response as it stands: created, in_progress, completed, incomplete, failed."""

    response: ResponseObject


class OutputEvent(StreamEvent):
    """Anything told of an item."""

    output_index: int


class ItemEvent(OutputEvent):
    """An item began or ended."""

    item: OutputItem


class PartEvent(OutputEvent):
    """A message's text began or ended."""

    item_id: str
    content_index: Literal[0] = 0
    part: OutputText


class TextDelta(OutputEvent):
    """More text."""

    item_id: str
    content_index: Literal[0] = 0
    delta: str
    logprobs: list[ChatLogprob] = Field(default_factory=list)


class TextDone(OutputEvent):
    """All of a message's text."""

    item_id: str
    content_index: Literal[0] = 0
    text: str
    logprobs: list[ChatLogprob] = Field(default_factory=list)


class ArgumentsDelta(OutputEvent):
    """More of a call's arguments."""

    item_id: str
    delta: str


class ArgumentsDone(OutputEvent):
    """All of a call's arguments."""

    item_id: str
    name: str
    arguments: str


class ErrorEvent(StreamEvent):
    """The stream failed; `response.failed` follows. OpenAI documents the fields flat, and sends them as `error`."""

    code: str | None
    message: str
    param: str | None
    error: dict[str, str | None]
