"""Calls that have to be made, by the unmodified openai SDK, of a random model: they are of tools there are, and fit."""

import json
from typing import Any

import jsonschema
import pytest
from openai import OpenAI

from brie_processes import BrieProcesses

MESSAGES: Any = [{"role": "user", "content": "How is the weather in Cádiz?"}]
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "array", "items": {"$ref": "#/$defs/day"}, "maxItems": 3},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
    "$defs": {"day": {"type": "integer", "minimum": 1, "maximum": 7}},
}
ZONE = {
    "type": "object",
    "properties": {"zone": {"type": "integer", "minimum": -12, "maximum": 12}},
    "required": ["zone"],
    "additionalProperties": False,
}
FLAG = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "weather_zone": ZONE, "now": {"maxProperties": 0}}
TOOLS: Any = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "weather_zone", "parameters": ZONE}},
    {"type": "function", "function": {"name": "now"}},
]
BEGIN = 100
"""Enough of a bias to begin a call wherever one may."""


@pytest.fixture(scope="module")
def client(brie: BrieProcesses) -> OpenAI:
    return brie.client()


def ask(client: OpenAI, **how: Any) -> Any:
    given: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 110, "seed": 1}
    return client.chat.completions.create(**given | how)


def fits(call: Any) -> str:
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    return str(call.function.name)


def test_a_call_that_has_to_be_is_one(client: OpenAI) -> None:
    answer = ask(client, tool_choice="required", parallel_tool_calls=False, n=12)
    called = set()
    for choice in answer.choices:
        assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
        (call,) = choice.message.tool_calls
        called.add(fits(call))
    assert len(called) > 1


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_a_named_tool_is_called_and_its_arguments_fit(client: OpenAI, name: str) -> None:
    choice: Any = {"type": "function", "function": {"name": name}}
    for seed in range(3):
        how: Any = {"tool_choice": choice, "seed": seed, "temperature": seed / 2}
        whole = ask(client, **how).choices[0]
        assert whole.finish_reason == "tool_calls"
        (call,) = whole.message.tool_calls
        assert fits(call) == name
        deltas = [chunk.choices[0].delta.tool_calls for chunk in ask(client, stream=True, **how)]
        told = "".join(each.function.arguments for calls in deltas for each in calls or ())
        assert told == call.function.arguments


def test_several_calls_are_all_valid(client: OpenAI) -> None:
    choices = ask(client, tool_choice="required", n=8).choices
    calls = [call for choice in choices for call in choice.message.tool_calls or ()]
    assert len(calls) > 8
    assert {fits(call) for call in calls} == set(SCHEMAS)


def test_content_has_its_form_where_no_call_is_made(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": FLAG}}
    for bias in ({"44": -100}, {"44": BEGIN}):  # the token "<"
        choice = ask(client, response_format=form, logit_bias=bias, parallel_tool_calls=False).choices[0]
        if choice.message.tool_calls:
            assert (bias["44"], choice.message.content, choice.finish_reason) == (BEGIN, None, "tool_calls")
        else:
            assert (bias["44"], choice.finish_reason) == (-100, "stop")
            jsonschema.validate(json.loads(choice.message.content), FLAG)
