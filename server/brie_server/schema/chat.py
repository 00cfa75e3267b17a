"""/v1/chat/completions on the wire."""

from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, model_validator

from brie_core.wire import Wire
from brie_server.schema.answer_form import ResponseFormat
from brie_server.schema.common import Flag, Ignored, NumChoices, Refused, TokenCount, Usage
from brie_server.schema.conditions import SEVERAL_LOGPROBS, WHOLE_PROMPT_LOGPROBS
from brie_server.schema.logprobs import ChatLogprobs, OfPrompt
from brie_server.schema.messages import ChatMessage
from brie_server.schema.sampling import Alternatives, AnswerBody
from brie_server.schema.template import TemplateFields
from brie_server.schema.tools import DeltaCall, OfCalls, ToolChoice, Tools


def _only_with_logprobs(number: int | None, info: ValidationInfo) -> int | None:
    if number and not info.data.get("logprobs"):
        raise ValueError("give it together with logprobs: true")
    return number


class ChatRequest(AnswerBody, TemplateFields):
    """The body of a chat completion."""

    model_config = ConfigDict(json_schema_extra={"allOf": [WHOLE_PROMPT_LOGPROBS, SEVERAL_LOGPROBS]})

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)]
    max_completion_tokens: TokenCount | None = None
    n: NumChoices | None = None
    logprobs: Flag | None = None
    top_logprobs: Annotated[Alternatives | None, AfterValidator(_only_with_logprobs)] = None

    audio: Refused = None
    function_call: Refused = None
    functions: Refused = None
    modalities: list[Literal["text"]] | None = None
    moderation: Refused = None
    prediction: Refused = None
    reasoning_effort: Refused = None
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: Flag | None = None
    web_search_options: Refused = None

    metadata: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    user: Ignored = None
    verbosity: Ignored = None

    @model_validator(mode="after")
    def _one_limit(self) -> "ChatRequest":
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ: give max_completion_tokens alone")
        return self

    @property
    def limit(self) -> int | None:
        """The most tokens to generate."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def limit_param(self) -> str:
        """The field that says so."""
        return "max_completion_tokens" if self.max_completion_tokens else "max_tokens"

    @property
    def num_choices(self) -> int:
        """How many answers are wanted."""
        return self.n or 1

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives each token is told with; None for no logprobs."""
        return self.top_logprobs or 0 if self.logprobs else None


class AnswerMessage(Wire):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    """Null where the answer is nothing but calls."""
    refusal: None = None
    tool_calls: OfCalls = None


class ChatChoice(Wire):
    """One answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str


class ChatCompletion(Wire):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    prompt_logprobs: OfPrompt = None


class Delta(Wire):
    """What a chunk adds; what is not set is not sent."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[DeltaCall] | None = None


class ChunkChoice(Wire):
    """One answer's part of a chunk."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatChunk(Wire):
    """A part of a streamed answer; `usage` is sent only where it was asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    system_fingerprint: str
    usage: Usage | None = None
