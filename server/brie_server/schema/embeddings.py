"""/v1/embeddings on the wire."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

from brie_core.wire import Wire
from brie_server.schema.common import Body, Ignored, Name, TokenCount
from brie_server.schema.completions import PROMPT_FORMS, is_prompt

MOST_INPUTS = 2048


def _as_list(value: Any) -> Any:
    """One text, or one list of token ids, as a list of one."""
    return [value] if isinstance(value, str) or is_prompt(value) else value


def _one(value: Any) -> Any:
    if not is_prompt(value):
        raise ValueError("give a string or a list of token ids, and not an empty one")
    return value


_Input = Annotated[str | list[int], BeforeValidator(_one)]


class EmbeddingRequest(Body):
    """The body; each input gets a vector."""

    model: Name
    input: Annotated[
        list[_Input],
        BeforeValidator(_as_list),
        Field(min_length=1, max_length=MOST_INPUTS),
        WithJsonSchema({"anyOf": PROMPT_FORMS}),
    ]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: TokenCount | None = None

    user: Ignored = None


class EmbeddingObject(Wire):
    """One input's vector: numbers, or base64 of them as little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Wire):
    """Tokens of all inputs together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Wire):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingUsage
