"""Tool calls by the unmodified openai SDK, before an engine that says what each test wants it to say."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from brie_server.engine.base import FinishReason
from scripted_engine import ScriptedEngine, scripted

Scripted = tuple[ScriptedEngine, AsyncOpenAI]
MESSAGES: Any = [{"role": "user", "content": "How is the weather in Cádiz?"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}


def tool(name: str = "weather", **more: Any) -> Any:
    return {"type": "function", "function": {"name": name, "parameters": PARAMETERS} | more}


TOOLS: Any = [tool(description="The weather of a city"), tool("time", strict=False)]
ARGUMENTS = '{"city": "Cádiz", "days": [1, 2]}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "time", "arguments": {}}\n</tool_call>'
BROKEN = '<tool_call>\n{"name": "weather", "arguments": {"city": Cádiz}}\n</tool_call>'


@pytest.fixture
async def serving(tiny_model: Path, tmp_path: Path) -> AsyncIterator[Scripted]:
    async with scripted(tiny_model, tmp_path) as both:
        yield both


async def ask(serving: Scripted, says: str, **how: Any) -> Any:
    engine, client = serving
    engine.says = says
    given: dict[str, Any] = {"model": "scripted", "messages": MESSAGES, "tools": TOOLS} | how
    return await client.chat.completions.create(**given)


async def stream(serving: Scripted, says: str, **how: Any) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in await ask(serving, says, stream=True, **how)]


def calls_of(chunks: list[ChatCompletionChunk]) -> dict[int, list[Any]]:
    """The deltas of each call."""
    deltas = [call for chunk in chunks if chunk.choices for call in chunk.choices[0].delta.tool_calls or ()]
    return {index: [each for each in deltas if each.index == index] for index in {each.index for each in deltas}}


def content_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def test_a_call_is_an_answer_of_its_own_kind(serving: Scripted) -> None:
    answer = await ask(serving, CALL)
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "weather", ARGUMENTS)
    assert re.fullmatch(r"call_[0-9a-f]{24}", call.id)
    engine, _ = serving
    assert answer.usage.completion_tokens == engine.num_said == len(engine.tokenizer.encode(CALL)) + 1
    assert answer.usage.prompt_tokens == len(engine.prompts[-1].token_ids)


async def test_a_streamed_call_comes_in_openais_deltas(serving: Scripted) -> None:
    chunks = await stream(serving, f"I look.\n{CALL}\n{OTHER}", stream_options={"include_usage": True})
    assert content_of(chunks) == "I look."
    assert chunks[-2].choices[0].finish_reason == "tool_calls"
    assert all(chunk.choices[0].finish_reason is None for chunk in chunks[:-2])
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == serving[0].num_said
    weather, time = calls_of(chunks).values()
    for first, *others in (weather, time):
        assert re.fullmatch(r"call_[0-9a-f]{24}", first.id)
        assert (first.type, first.function.arguments) == ("function", "")
        assert {(each.id, each.type, each.function.name) for each in others} == {(None, None, None)}
    assert [weather[0].function.name, time[0].function.name] == ["weather", "time"]
    assert len(weather) > 5
    assert "".join(each.function.arguments for each in weather) == ARGUMENTS
    assert "".join(each.function.arguments for each in time) == "{}"


async def test_the_sdk_puts_a_streamed_call_together(serving: Scripted) -> None:
    engine, client = serving
    engine.says = CALL
    async with client.chat.completions.stream(model="scripted", messages=MESSAGES, tools=TOOLS[:1]) as events:
        completion = await events.get_final_completion()
    (choice,) = completion.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert choice.message.tool_calls is not None
    assert json.loads(choice.message.tool_calls[0].function.arguments) == {"city": "Cádiz", "days": [1, 2]}


async def test_a_conversation_goes_on_after_a_call(serving: Scripted) -> None:
    said = (await ask(serving, CALL)).choices[0].message
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": [{"type": "text", "text": "Sunny"}]}
    strict = [TOOLS[0], tool("time", strict=True)]
    answer = await ask(serving, "It is sunny.", messages=[*MESSAGES, said, result], tools=strict)
    assert serving[0].prompts[-1].form is not None
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("It is sunny.", "stop")
    shown = serving[0].was_shown
    assert CALL in shown
    assert "<tool_response>\nSunny\n</tool_response>" in shown
    assert '"description": "The weather of a city"' in shown
    assert "strict" not in shown


@pytest.mark.parametrize("says", ["Plain words.", f"Well: {BROKEN}", '<tool_call>\n{"name": "weather"', " <tool_call"])
@pytest.mark.parametrize("end", [FinishReason.STOP, FinishReason.LENGTH])
async def test_what_is_no_call_is_content(says: str, end: FinishReason, serving: Scripted) -> None:
    serving[0].end = end
    answer, chunks = await ask(serving, says), await stream(serving, says)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.tool_calls) == (says, None)
    assert choice.finish_reason == chunks[-1].choices[0].finish_reason == end
    assert content_of(chunks) == says


async def test_without_tools_or_with_none_nothing_is_shown_and_nothing_is_read(serving: Scripted) -> None:
    ways: list[dict[str, Any]] = [{"tools": openai.omit}, {"tools": []}, {"tool_choice": "none"}]
    for how in ways:
        answer = await ask(serving, CALL, **how)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (CALL, "stop")
        assert "weather of a city" not in serving[0].was_shown


async def test_without_parallel_calls_the_first_is_the_last(serving: Scripted) -> None:
    both = f"I look. {CALL}\n{OTHER}\nmore"
    answer = await ask(serving, both)
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["weather", "time"]
    answer = await ask(serving, both, parallel_tool_calls=False)
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["weather"]
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", "I look.")
    assert answer.usage.completion_tokens == serving[0].num_said < len(serving[0].tokenizer.encode(both))
    chunks = await stream(serving, both, parallel_tool_calls=False)
    assert len(calls_of(chunks)) == 1
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


NAMED = {"type": "function", "function": {"name": "time"}}


@pytest.mark.parametrize(
    ("choice", "begun", "says", "called"),
    [
        ("required", '<tool_call>\n{"name": "', CALL.split('{"name": "')[1], ("weather", ARGUMENTS)),
        (NAMED, '<tool_call>\n{"name": "time", "arguments":', ' {"zone": 3}}\n</tool_call>', ("time", '{"zone": 3}')),
    ],
)
async def test_a_call_that_has_to_be_is_begun_for_the_model(
    choice: Any, begun: str, says: str, called: tuple[str, str], serving: Scripted
) -> None:
    answer, chunks = await ask(serving, says, tool_choice=choice), await stream(serving, says, tool_choice=choice)
    assert serving[0].was_shown.endswith(f"<|im_start|>assistant\n{begun}")
    assert answer.choices[0].finish_reason == chunks[-1].choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == called
    assert [each[0].function.name for each in calls_of(chunks).values()] == [called[0]]
    serving[0].end = FinishReason.LENGTH
    failed = (await ask(serving, "no", tool_choice=choice)).choices[0]
    assert (failed.message.content, failed.message.tool_calls, failed.finish_reason) == (begun + "no", None, "length")


async def test_only_the_chosen_tool_counts_as_called(serving: Scripted) -> None:
    answer = await ask(serving, f" x}}\n{CALL}", tool_choice=NAMED)
    assert answer.choices[0].message.tool_calls is None


async def test_a_stop_string_ends_the_answer_before_calls_are_read(serving: Scripted) -> None:
    answer = await ask(serving, f"One. {CALL} STOP {OTHER}", stop="STOP")
    assert [call.function.name for call in answer.choices[0].message.tool_calls] == ["weather"]
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("One.", "tool_calls")
    cut = await ask(serving, CALL, stop="days")
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == (CALL.partition("days")[0], "stop")


async def test_logprobs_are_those_of_all_that_was_said(serving: Scripted) -> None:
    says = f"I look.\n{CALL}"
    answer, chunks = await ask(serving, says, logprobs=True), await stream(serving, says, logprobs=True)
    told = answer.choices[0].logprobs.content
    assert b"".join(bytes(each.bytes) for each in told).decode() == says
    scored = [chunk.choices[0].logprobs for chunk in chunks]
    streamed = [each for logprobs in scored if logprobs for each in logprobs.content or ()]
    assert streamed == told


async def test_many_at_once_do_not_mix(serving: Scripted) -> None:
    answers = await asyncio.gather(*(ask(serving, CALL) for _ in range(8)))
    assert {answer.choices[0].message.tool_calls[0].function.arguments for answer in answers} == {ARGUMENTS}
    assert len({answer.choices[0].message.tool_calls[0].id for answer in answers}) == 8


USER = MESSAGES[0]
ASSISTANT = {"role": "assistant", "content": None}
MADE = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": "weather"}, "tools"),
        ({"tools": [tool(f"t{number}") for number in range(129)]}, "tools"),
        ({"tools": [tool(), tool()]}, "tools"),
        ({"tools": [{"type": "code_interpreter"}]}, "tools[0].type"),
        ({"tools": [tool(), {"type": "custom", "custom": {"name": "x"}}]}, "tools[1].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [tool("")]}, "tools[0].function.name"),
        ({"tools": [tool("x" * 65)]}, "tools[0].function.name"),
        ({"tools": [tool("my tool")]}, "tools[0].function.name"),
        ({"tools": [tool("tool\n")]}, "tools[0].function.name"),
        ({"tools": [tool(description=3)]}, "tools[0].function.description"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [tool(parameters={"x": "\ud800"})]}, "tools[0].function.parameters.x"),
        ({"tools": [tool(parameters={"x": float("nan")})]}, "tools[0].function.parameters"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice"),
        ({"tools": None, "tool_choice": NAMED}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [tool(strict="yes")]}, "tools[0].function.strict"),
        ({"tools": [tool(), tool("x", strict=True, parameters={"type": "array"})]}, "tools[1].function.parameters"),
        ({"tools": [tool(strict=True, parameters={"type": "object", "not": {}})]}, "tools"),
        ({"tools": [tool(parameters={"type": "object", "not": {}})], "tool_choice": "required"}, "tools"),
        ({"functions": [{"name": "x"}]}, "functions"),
        ({"messages": [{"role": "function", "name": "x", "content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [USER | {"tool_call_id": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "x"}]}, "messages[1].content"),
        ({"messages": [USER, {"role": "tool", "tool_call_id": "x", "content": None}]}, "messages[1].content"),
        ({"messages": [USER | {"tool_calls": [MADE]}]}, "messages[0].tool_calls"),
        ({"messages": [USER, ASSISTANT]}, "messages[1].content"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": []}]}, "messages[1].content"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": [MADE] * 129}]}, "messages[1].tool_calls"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": [MADE | {"id": None}]}]}, "messages[1].tool_calls[0].id"),
        ({"messages": [USER, ASSISTANT | {"tool_calls": [MADE | {"type": "x"}]}]}, "messages[1].tool_calls[0].type"),
        (
            {"messages": [USER, ASSISTANT | {"tool_calls": [MADE | {"function": {"name": "x", "arguments": {}}}]}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            {"messages": [USER, {"role": "tool", "tool_call_id": "x", "content": [{"type": "image_url"}]}]},
            "messages[1].content",
        ),
    ],
)
async def test_what_cannot_be_is_refused_by_name(change: Any, param: str, serving: Scripted) -> None:
    """Sent without the SDK, which would not send some of it."""
    body = json.dumps({"model": "scripted", "messages": MESSAGES, "tools": TOOLS} | change).encode()
    url, headers = f"{serving[1].base_url}chat/completions", {"content-type": "application/json"}
    response = await serving[1]._client.post(url, content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param), response.text


@pytest.mark.parametrize("arguments", ["", "{", "[1]", '{"x": "\\ud800"}', "[" * 100_000, '{"x": NaN}'])
async def test_arguments_of_earlier_calls_may_be_anything(arguments: str, serving: Scripted) -> None:
    made = MADE | {"function": {"name": "weather", "arguments": arguments}}
    result = {"role": "tool", "tool_call_id": "call_1", "content": "x"}
    answer = await ask(serving, "Yes.", messages=[USER, ASSISTANT | {"tool_calls": [made]}, result])
    assert answer.choices[0].message.content == "Yes."
