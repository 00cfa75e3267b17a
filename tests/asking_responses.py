"""Asks a scripted engine for responses, and checks what must be so in any stream of them. It knows no test."""

import json
from collections import defaultdict
from typing import Any

from openai import AsyncOpenAI

from scripted_engine import ScriptedEngine

Scripted = tuple[ScriptedEngine, AsyncOpenAI]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER: Any = {"type": "function", "name": "weather", "description": "Of a city", "parameters": PARAMETERS}
TIME: Any = {"type": "function", "name": "time", "parameters": None, "strict": True}
ARGUMENTS = '{"city": "Cádiz", "days": [1, 2]}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": "weather", "arguments": {"city": Cádiz}}\n</tool_call>'
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the template says where nothing else is the system's."""


async def ask(serving: Scripted, says: str = "Yes.", **how: Any) -> Any:
    serving[0].says = says
    return await serving[1].responses.create(**({"model": "scripted", "input": "Hi"} | how))


async def stream(serving: Scripted, says: str = "Yes.", **how: Any) -> list[Any]:
    return [event async for event in await ask(serving, says, stream=True, **how)]


def turn(role: str, text: str) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def shown(*turns: str) -> str:
    return "".join(turns) + "<|im_start|>assistant\n"


def kinds(events: list[Any]) -> list[str]:
    """The types of the events, of equal ones that follow each other only the first."""
    told = [event.type.removeprefix("response.") for event in events]
    return [kind for kind, before in zip(told, [None, *told], strict=False) if kind != before]


MESSAGE = ["output_item.added", "content_part.added", "output_text.delta"]
MESSAGE += ["output_text.done", "content_part.done", "output_item.done"]
CALLING = ["output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"]


def merged(parts: list[str]) -> list[str]:
    return [kind for kind, before in zip(parts, [None, *parts], strict=False) if kind != before]


def check_stream(events: list[Any]) -> Any:
    """What must be so in any stream that ends well; returns the response at its end."""
    assert [event.sequence_number for event in events] == list(range(len(events)))
    created, in_progress, *_, last = events
    assert (created.type, in_progress.type) == ("response.created", "response.in_progress")
    assert created.response.status == in_progress.response.status == "in_progress"
    assert created.response.output == []
    final = last.response
    joined: dict[str, str] = defaultdict(str)
    done = {}
    for event in events:
        if event.type in ("response.output_text.delta", "response.function_call_arguments.delta"):
            joined[event.item_id] += event.delta
        if event.type == "response.output_text.done":
            assert event.text == joined[event.item_id]
        if event.type == "response.function_call_arguments.done":
            assert event.arguments == joined[event.item_id]
        if event.type == "response.output_item.done":
            done[event.item.id] = event.item
    for item in final.output:
        assert done[item.id] == item
        assert joined[item.id] == (item.arguments if item.type == "function_call" else item.content[0].text)
    told = {name: getattr(final, name) for name in ("id", "created_at", "model", "tools", "instructions", "metadata")}
    assert told == {name: getattr(created.response, name) for name in told}
    return final


def bare(response: Any) -> Any:
    """A response without what no two have in common."""
    told = json.loads(response.model_dump_json())
    for name in ("id", "created_at", "completed_at"):
        del told[name]
    for item in told["output"]:
        item.pop("id")
        item.pop("call_id", None)
    return told


def input_items(serving: Scripted) -> Any:
    """The SDK's listing; items of thirty types are told apart by what is asserted of them."""
    return serving[1].responses.input_items.list
