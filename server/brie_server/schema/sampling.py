"""What chat and text completions are both told about the answer: its length, its end, and how tokens are chosen."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from brie_server.schema.common import (
    Flag,
    Name,
    Number,
    Probability,
    Seed,
    Stop,
    StreamOptions,
    Temperature,
    TokenCount,
)
from brie_server.schema.conditions import WHOLE_PROMPT_LOGPROBS
from brie_server.schema.foreign import ForeignFields

_MOST_BIASES = 1024
_TOKEN_ID = "(0|[1-9][0-9]{0,8})"
"""Without leading zeros, so that none is named twice."""
_BIASES = {
    "type": "object",
    "maxProperties": _MOST_BIASES,
    "patternProperties": {f"^{_TOKEN_ID}$": {"type": "number", "minimum": -100, "maximum": 100}},
    "additionalProperties": False,
}


def _biases(value: Any) -> Any:
    """Checked as one value, so that the fault is told of logit_bias and not of a key in it."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > _MOST_BIASES:
        raise ValueError(f"must be an object of at most {_MOST_BIASES} token ids with their biases")
    for token, bias in value.items():
        if re.fullmatch(_TOKEN_ID, token) is None:
            raise ValueError(f"{token[:20]!r} is no token id")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} must be a number from -100 to 100")
    return value


Penalty = Annotated[float, Field(ge=-2, le=2), Number]
Biases = Annotated[dict[int, float], BeforeValidator(_biases), WithJsonSchema(_BIASES)]
Share = Annotated[float, Field(ge=0, le=1), Number]
TopK = Annotated[int, Field(ge=-1, le=2**31 - 1), Number]
Repetition = Annotated[float, Field(ge=0.01, le=100), Number]
TokenId = Annotated[int, Field(ge=0, lt=2**31), Number]
AnyCount = Annotated[int, Field(ge=0, le=2**31 - 1), Number]
Alternatives = Annotated[int, Field(ge=0, le=20), Number]


def _only_whole(number: int | None, info: ValidationInfo) -> int | None:
    if number is not None and info.data.get("stream"):
        raise ValueError("a stream does not tell them; ask without stream")
    return number


class AnswerBody(ForeignFields):
    """The fields of both; from top_k on they are vLLM's."""

    model_config = ConfigDict(json_schema_extra={"allOf": [WHOLE_PROMPT_LOGPROBS]})

    model: Name
    stream: Flag | None = None
    stream_options: StreamOptions | None = None
    max_tokens: TokenCount | None = None
    stop: Stop | None = None
    temperature: Temperature | None = None
    top_p: Probability | None = None
    seed: Seed | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Biases | None = None

    top_k: TopK | None = None
    min_p: Share | None = None
    repetition_penalty: Repetition | None = None
    min_tokens: AnyCount | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    ignore_eos: Flag | None = None
    prompt_logprobs: Annotated[Alternatives | None, AfterValidator(_only_whole)] = None
