"""/tokenize and /detokenize on the wire, for clients of vLLM and of llama.cpp."""

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from brie_core.wire import Wire
from brie_server.schema.common import Body, Flag, Name, Refused
from brie_server.schema.conditions import one_of_fields
from brie_server.schema.messages import ChatMessage
from brie_server.schema.sampling import TokenId
from brie_server.schema.template import TemplateFields

MOST_TOKENS = 2**20


class TokenizeRequest(TemplateFields):
    """A text under its name in vLLM (`prompt`) or llama.cpp (`content`), or a conversation."""

    model_config = ConfigDict(json_schema_extra=one_of_fields("prompt", "content", "messages"))

    model: Name | None = None
    prompt: str | None = None
    content: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=4096)] | None = None
    add_special_tokens: Flag | None = None
    add_special: Flag | None = None
    return_token_strs: Flag = False
    with_pieces: Refused = None

    @model_validator(mode="after")
    def _one_input(self) -> "TokenizeRequest":
        if sum(each is not None for each in (self.prompt, self.content, self.messages)) != 1:
            raise ValueError("give one of prompt, content and messages")
        return self

    @property
    def adds_special_tokens(self) -> bool:
        """As in a prompt by default where the field is vLLM's, and not where it is llama.cpp's."""
        if self.content is not None:
            return bool(self.add_special)
        return self.add_special_tokens is not False


class Tokenized(Wire):
    """The ids of a text."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(Body):
    """Ids to be read."""

    model: Name | None = None
    tokens: Annotated[list[TokenId], Field(max_length=MOST_TOKENS)]


class Detokenized(Wire):
    """The text of ids, under both servers' names for it."""

    prompt: str
    content: str
