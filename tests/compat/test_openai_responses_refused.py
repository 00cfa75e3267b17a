"""What /v1/responses cannot honour is a clear error that names the field."""

import json
from typing import Any

import openai
import pytest

from asking_responses import WEATHER, Scripted, ask

pytestmark = pytest.mark.asyncio(loop_scope="session")


HI = {"role": "user", "content": "Hi"}
CALLED = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "x"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [HI] * 4097}, "input"),
        ({"input": ["Hi"]}, "input[0]"),
        ({"input": [HI, {"content": "x"}]}, "input[1].role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [HI | {"content": None}]}, "input[0].content"),
        ({"input": [HI | {"content": 3}]}, "input[0].content"),
        ({"input": [HI | {"content": "\ud800"}]}, "input[0].content"),
        ({"user": "\ud800"}, "user"),
        ({"input": [HI, HI, HI | {"content": [{"type": "input_image"}]}]}, "input[2].content[0].type"),
        ({"input": [HI | {"content": [{"type": "input_text", "text": "x"}, {"type": "input_file"}]}]}, None),
        ({"input": [HI | {"content": [{"type": "input_audio"}]}]}, "input[0].content[0].type"),
        ({"input": [HI | {"content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [HI | {"content": [{"text": "x"}]}]}, "input[0].content[0].type"),
        ({"input": [HI, {"type": "web_search_call", "id": "x"}]}, "input[1].type"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input[0].type"),
        ({"input": [CALLED | {"name": None}]}, "input[0].name"),
        ({"input": [CALLED | {"arguments": {}}]}, "input[0].arguments"),
        ({"input": [CALLED | {"call_id": ""}]}, "input[0].call_id"),
        ({"input": [CALLED, RESULT | {"call_id": None}]}, "input[1].call_id"),
        ({"input": [CALLED, RESULT | {"output": None}]}, "input[1].output"),
        ({"input": [CALLED, RESULT | {"output": [{"type": "input_image"}]}]}, "input[1].output[0].type"),
        ({"input": [RESULT]}, "input[0].call_id"),
        ({"input": [RESULT, CALLED]}, "input[0].call_id"),
        ({"input": [{"type": "item_reference"}]}, "input[0].id"),
        ({"instructions": ["x"]}, "instructions"),
        ({"previous_response_id": 3}, "previous_response_id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 100_000}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"store": "yes"}, "store"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"max_tool_calls": 2}, "max_tool_calls"),
        ({"moderation": {"model": "x"}}, "moderation"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
        ({"include": ["nope"]}, "include"),
        ({"include": [3]}, "include"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"top_logprobs": 21, "include": ["message.output_text.logprobs"]}, "top_logprobs"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
        ({"prompt_logprobs": 2}, "prompt_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [WEATHER, {"type": "file_search", "vector_store_ids": []}]}, "tools[1].type"),
        ({"tools": [{"type": "custom", "name": "x"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools[0].name"),
        ({"tools": [WEATHER | {"name": "my tool"}]}, "tools[0].name"),
        ({"tools": [WEATHER | {"parameters": []}]}, "tools[0].parameters"),
        ({"tools": [WEATHER | {"parameters": {"x": "\ud800"}}]}, "tools[0].parameters.x"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "time"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"text": "text"}, "text"),
        ({"text": {"format": "text"}}, "text.format"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(change: Any, param: str | None, serving: Scripted) -> None:
    """Sent without the SDK, which would not send some of it."""
    body = json.dumps({"model": "scripted", "input": "Hi"} | change).encode()
    url, headers = f"{serving[1].base_url}responses", {"content-type": "application/json"}
    for told in (body, body[:-1] + b', "stream": true}'):
        response = await serving[1]._client.post(url, content=told, headers=headers)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param or "input[0].content[1].type"), response.text


async def test_an_unknown_model_is_never_the_base_in_disguise(serving: Scripted) -> None:
    for stream in (False, True):
        with pytest.raises(openai.NotFoundError) as unknown:
            await ask(serving, model="nope", stream=stream)
        assert unknown.value.code == "model_not_found"
