"""response_format by the unmodified openai SDK: whatever a random model would like to say, its answer has the form."""

import json
import re
from enum import Enum
from typing import Any, Literal

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from brie_processes import BrieProcesses

MESSAGES: Any = [{"role": "user", "content": "Describe a city as JSON."}]


class Size(Enum):
    """How large."""

    TOWN = "town"
    CITY = "city"


class District(BaseModel):
    """A part."""

    name: str = Field(max_length=12)
    postcode: str = Field(pattern=r"^[0-9]{5}$")


class City(BaseModel):
    """What is asked for."""

    name: str = Field(max_length=20)
    size: Size
    inhabitants: int = Field(ge=1, le=40_000_000)
    country: Literal["Spain", "Portugal"]
    districts: list[District] = Field(max_length=2)
    mayor: District | None


def object_of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def wrapped(schema: Any, **more: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema} | more}


SMALL = object_of(a={"type": "integer", "minimum": 3, "maximum": 12}, b={"enum": ["x", "y"]})


@pytest.fixture(scope="module")
def client(brie: BrieProcesses) -> OpenAI:
    return brie.client()


def ask(client: OpenAI, **how: Any) -> Any:
    return client.chat.completions.create(**({"model": "tiny", "messages": MESSAGES, "max_tokens": 300} | how))


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_parsed_into_the_model_it_was_asked_for(client: OpenAI, seed: int) -> None:
    answer = client.chat.completions.parse(
        model="tiny", messages=MESSAGES, response_format=City, seed=seed, max_tokens=400, temperature=seed / 3
    )
    assert answer.choices[0].finish_reason == "stop"
    city = answer.choices[0].message.parsed
    assert city is not None
    assert 1 <= city.inhabitants <= 40_000_000


def test_streamed_and_whole_are_the_same_answer(client: OpenAI) -> None:
    how: dict[str, Any] = {"response_format": wrapped(SMALL), "temperature": 0}
    whole = ask(client, **how)
    chunks = list(ask(client, stream=True, **how))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(text), SMALL)


@pytest.mark.parametrize("strict", [True, False, None])
def test_a_schema_is_kept_to_whether_strict_or_not(client: OpenAI, strict: bool | None) -> None:
    answer = ask(client, response_format=wrapped(SMALL, strict=strict, description="Two things"), seed=3)
    jsonschema.validate(json.loads(answer.choices[0].message.content), SMALL)


def test_any_object_is_an_object_and_white_space_has_an_end(client: OpenAI) -> None:
    blank = {str(token): 100 for token in (198, 216, 256, 289, 353, 466)}  # new lines, runs of spaces
    for seed in range(4):
        answer = ask(client, response_format={"type": "json_object"}, seed=seed, logit_bias=blank, max_tokens=60)
        text = answer.choices[0].message.content
        assert text.startswith("{")
        between = re.sub(r'"([^"\\]|\\.)*("|$)', "", text)  # in a string it may say what it likes
        assert "\n\n" not in between and " " * 33 not in between
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(text), dict)


def test_what_would_break_a_form_does_not(client: OpenAI) -> None:
    """Each of these alone would end an answer early, or lead it elsewhere."""
    hows: list[dict[str, Any]] = [
        {"extra_body": {"ignore_eos": True}},
        {"extra_body": {"min_tokens": 100}},
        {"extra_body": {"stop_token_ids": list(range(500, 900))}},
        {"extra_body": {"repetition_penalty": 20.0}},
        {"logit_bias": {"2": 100, "0": 100}},
        {"n": 5, "seed": 7},
        {"frequency_penalty": 2.0, "presence_penalty": 2.0},
        {"logprobs": True, "top_logprobs": 3},
    ]
    for how in hows:
        answer = ask(client, response_format=wrapped(SMALL), **how)
        for choice in answer.choices:
            assert choice.finish_reason == "stop", how
            jsonschema.validate(json.loads(choice.message.content), SMALL)
            if choice.logprobs is not None:
                assert "".join(token.token for token in choice.logprobs.content) == choice.message.content


def test_a_seed_repeats_and_seeds_differ(client: OpenAI) -> None:
    form = wrapped(object_of(a={"type": "string", "maxLength": 30}))
    said = [ask(client, response_format=form, seed=seed).choices[0].message.content for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_an_answer_that_is_cut_says_so(client: OpenAI) -> None:
    form = wrapped(object_of(a={"type": "string", "minLength": 500}))
    choice = ask(client, response_format=form, max_tokens=10).choices[0]
    assert choice.finish_reason == "length"
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(model="tiny", messages=MESSAGES, response_format=City, max_tokens=3)
    stopped = ask(client, response_format=wrapped(SMALL), stop=['"b"']).choices[0]
    assert stopped.finish_reason == "stop"
    assert '"b"' not in stopped.message.content


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (object_of(a={"type": "array", "uniqueItems": True}), "uniqueItems"),
        (object_of(a={"not": {"type": "string"}}), "not"),
        (object_of(a={"if": {}, "then": {}}), "if"),
        (object_of(a={"type": "string", "format": "telephone"}), "telephone"),
        (object_of(a={"type": "string", "pattern": "(?=x)y"}), "look-around"),
        (object_of(a={"type": "integer", "minimum": 4, "exclusiveMinimum": True}), "exclusiveMinimum"),
        (object_of(a={"type": "integer", "minimum": 5, "maximum": 4}), "nsatisfiable"),
        (object_of(a={"type": "integer", "multipleOf": 123456789}), "multipleOf"),
        (object_of(a={"$ref": "http://example.com/schema"}), "example.com"),
        ({"not": {}, "x-guidance": {"lenient": True}}, "not"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_by_what_is_wrong(client: OpenAI, schema: Any, named: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, response_format=wrapped(schema, strict=True))
    assert refused.value.param == "response_format.json_schema.schema"
    assert named in refused.value.message
