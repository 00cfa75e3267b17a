"""What chat and text completions are both told about the answer: its length, its end, and how tokens are chosen."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from brie_server.schema.common import (
    Flag,
    Name,
    Number,
    Probability,
    Refused,
    Seed,
    Stop,
    StreamOptions,
    Temperature,
    TokenCount,
)
from brie_server.schema.foreign import ForeignFields

_MOST_BIASES = 1024


def _biases(value: Any) -> Any:
    """Checked as one value, so that the fault is told of logit_bias and not of a key in it."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > _MOST_BIASES:
        raise ValueError(f"must be an object of at most {_MOST_BIASES} token ids with their biases")
    for token, bias in value.items():
        if not (token.isascii() and token.isdecimal() and len(token) < 10):
            raise ValueError(f"{token[:20]!r} is no token id")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise ValueError(f"the bias of token {token} must be a number from -100 to 100")
    if len({int(token) for token in value}) < len(value):
        raise ValueError("a token id is named twice")
    return value


Penalty = Annotated[float, Number, Field(ge=-2, le=2)]
Biases = Annotated[dict[int, float], BeforeValidator(_biases)]
Share = Annotated[float, Number, Field(ge=0, le=1)]
TopK = Annotated[int, Number, Field(ge=-1, le=2**31 - 1)]
Repetition = Annotated[float, Number, Field(ge=0.01, le=100)]
TokenId = Annotated[int, Number, Field(ge=0, lt=2**31)]
AnyCount = Annotated[int, Number, Field(ge=0, le=2**31 - 1)]
Alternatives = Annotated[int, Number, Field(ge=0, le=20)]


def _only_whole(number: int | None, info: ValidationInfo) -> int | None:
    if number is not None and info.data.get("stream"):
        raise ValueError("a stream does not tell them; ask without stream")
    return number


class AnswerBody(ForeignFields):
    """The fields of both; from top_k on they are vLLM's."""

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

    guided_choice: Refused = None
    guided_grammar: Refused = None
    guided_json: Refused = None
    guided_regex: Refused = None
    structured_outputs: Refused = None
