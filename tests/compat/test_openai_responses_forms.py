"""Responses that are held to a schema, by the unmodified openai SDK, of a random model."""

import json
from typing import Any, Literal

import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from brie_processes import BrieProcesses

CHEESE: Any = {
    "type": "object",
    "properties": {"name": {"enum": ["Brie", "Comté"]}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "name": "cheese", "schema": CHEESE, "strict": True}
TOOL: Any = {"type": "function", "name": "age_of", "parameters": CHEESE, "strict": True}


class Cheese(BaseModel):
    name: Literal["Brie", "Comté"]
    age: int


@pytest.fixture
def client(brie: BrieProcesses) -> OpenAI:
    return brie.client()


def test_a_response_is_parsed_into_what_was_asked_for(client: OpenAI) -> None:
    response = client.responses.parse(model="tiny", input="Name a cheese.", text_format=Cheese, temperature=1.5)
    assert response.status == "completed"
    assert isinstance(response.output_parsed, Cheese)
    told: Any = response.text
    assert (told.format.type, told.format.name, told.format.strict) == ("json_schema", "Cheese", True)


def test_a_stream_of_it_says_the_same(client: OpenAI) -> None:
    how: Any = {"model": "tiny", "input": "Name a cheese.", "text": {"format": FORMAT}, "extra_body": {"seed": 3}}
    whole = client.responses.create(**how)
    with client.responses.stream(**how) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    assert json.loads(whole.output_text)["name"] in ("Brie", "Comté")


def test_any_object_is_one(client: OpenAI) -> None:
    how: Any = {"model": "tiny", "input": "x", "text": {"format": {"type": "json_object"}}, "max_output_tokens": 400}
    for seed in range(3):
        response = client.responses.create(**how, extra_body={"seed": seed})
        assert response.output_text.startswith("{")
        if response.status == "completed":
            assert isinstance(json.loads(response.output_text), dict)


def test_a_call_that_has_to_be_made_fits_its_tool(client: OpenAI) -> None:
    response = client.responses.create(model="tiny", input="How old?", tools=[TOOL], tool_choice="required")
    calls = [item for item in response.output if item.type == "function_call"]
    assert calls
    assert all(call.name == "age_of" for call in calls)
    for call in calls:
        Cheese.model_validate_json(call.arguments)


@pytest.mark.parametrize(
    ("how", "param"),
    [
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object", "schema": {}}}}, "text.format.schema"),
        ({"text": {"format": FORMAT | {"schema": {"type": "cheese"}}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"tools": [TOOL | {"parameters": {"type": "array"}}], "tool_choice": "required"}, "tools[0].parameters"),
    ],
)
def test_what_cannot_be_held_is_refused(how: Any, param: str, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="tiny", input="x", max_output_tokens=1, extra_body=how)
    assert refused.value.param == param
