"""/v1/responses by the unmodified openai SDK, before an engine that says what each test wants it to say."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from asking_responses import (
    ARGUMENTS,
    BROKEN,
    CALL,
    CALLING,
    MESSAGE,
    OTHER,
    TIME,
    WEATHER,
    Scripted,
    ask,
    bare,
    check_stream,
    input_items,
    kinds,
    merged,
    shown,
    stream,
    turn,
)
from brie_core.errors import EngineFailure
from brie_server.engine.base import FinishReason

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_text_is_answered_by_a_message(serving: Scripted) -> None:
    response = await ask(serving, "Hello there.", instructions="Be brief.")
    assert serving[0].was_shown == shown(turn("system", "Be brief."), turn("user", "Hi"))
    assert response.output_text == "Hello there."
    (message,) = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "completed")
    assert (message.content[0].annotations, message.content[0].logprobs) == ([], [])
    assert re.fullmatch(r"resp_[0-9a-z]{24}", response.id)
    assert re.fullmatch(r"msg_[0-9a-z]{25}", message.id)
    assert (response.status, response.error, response.incomplete_details) == ("completed", None, None)
    assert response.created_at <= response.completed_at
    usage, engine = response.usage, serving[0]
    assert (usage.input_tokens, usage.output_tokens) == (len(engine.prompts[-1].token_ids), engine.num_said)
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert (usage.input_tokens_details.cached_tokens, usage.output_tokens_details.reasoning_tokens) == (0, 0)


async def test_a_response_tells_what_it_was_asked_with(serving: Scripted) -> None:
    response = await ask(serving)
    defaults = {
        "temperature": 1.0,
        "top_p": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "parallel_tool_calls": True,
        "store": True,
        "background": False,
        "truncation": "disabled",
        "top_logprobs": 0,
        "metadata": {},
        "instructions": None,
        "max_output_tokens": None,
        "previous_response_id": None,
        "user": None,
        "service_tier": "default",
        "model": "scripted",
    }
    assert {name: getattr(response, name) for name in defaults} == defaults
    assert response.text.format.type == "text"
    given: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.25,
        "parallel_tool_calls": False,
        "store": False,
        "metadata": {"a": "b"},
        "instructions": "x",
        "max_output_tokens": 99,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "truncation": "disabled",
    }
    response = await ask(serving, **given)
    assert {name: getattr(response, name) for name in given} == given
    sampling, prompt = serving[0].prompts[-1].sampling, serving[0].prompts[-1]
    assert (sampling.temperature, sampling.top_p, prompt.max_tokens) == (0.5, 0.25, 99)


async def test_what_changes_nothing_is_accepted(serving: Scripted) -> None:
    neutral: dict[str, Any] = {
        "background": False,
        "conversation": None,
        "prompt": None,
        "max_tool_calls": None,
        "truncation": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "auto",
        "include": ["reasoning.encrypted_content"],
        "top_logprobs": 0,
        "tools": [],
        "tool_choice": "auto",
        "stream_options": {"include_obfuscation": False},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
    }
    for name, value in neutral.items():
        assert (await ask(serving, **{name: value})).output_text == "Yes."


async def test_items_of_each_kind_are_read_as_turns(serving: Scripted) -> None:
    items: Any = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "c", "annotations": []}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": ARGUMENTS},
        {"type": "function_call", "id": "fc_x", "call_id": "call_2", "name": "time", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sun"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "noon"}]},
        {"role": "assistant", "content": "d"},
        {"type": "message", "role": "user", "content": "e"},
    ]
    response = await ask(serving, input=items)
    results = "<tool_response>\nsun\n</tool_response>\n<tool_response>\nnoon\n</tool_response>"
    said = [turn("user", "ab"), turn("assistant", f"c\n{CALL}\n{OTHER}"), turn("user", results)]
    assert serving[0].was_shown == shown(turn("system", "Be kind."), *said, turn("assistant", "d"), turn("user", "e"))
    listed = [item async for item in input_items(serving)(response.id, order="asc")]
    assert [item.type for item in listed] == [item.get("type", "message") for item in items]
    assert [item.id for item in listed][4] == "fc_x"
    assert len({item.id for item in listed}) == len(items)


async def test_a_call_is_an_item(serving: Scripted) -> None:
    response = await ask(serving, f"I look.\n{CALL}\n{OTHER}", tools=[WEATHER, TIME])
    message, weather, time = response.output
    assert (response.output_text, message.status, response.status) == ("I look.", "completed", "completed")
    assert (weather.type, weather.name, weather.arguments) == ("function_call", "weather", ARGUMENTS)
    assert (time.name, time.arguments, time.status) == ("time", "{}", "completed")
    assert re.fullmatch(r"call_[0-9a-f]{24}", weather.call_id)
    assert len({weather.call_id, time.call_id, weather.id, time.id}) == 4
    assert [(tool.name, tool.strict, tool.description) for tool in response.tools] == [
        ("weather", None, "Of a city"),
        ("time", True, None),
    ]


async def test_choosing_a_tool(serving: Scripted) -> None:
    named: Any = {"type": "function", "name": "time"}
    response = await ask(serving, ' {"zone": 3}}\n</tool_call>', tools=[WEATHER, TIME], tool_choice=named)
    assert (response.output[0].name, response.output[0].arguments) == ("time", '{"zone": 3}')
    assert (response.tool_choice.type, response.tool_choice.name) == ("function", "time")
    response = await ask(serving, CALL, tools=[WEATHER], tool_choice="none")
    assert (response.output_text, response.tool_choice) == (CALL, "none")
    response = await ask(serving, CALL.split('{"name": "')[1], tools=[WEATHER], tool_choice="required")
    assert (response.output[0].arguments, response.tool_choice) == (ARGUMENTS, "required")
    response = await ask(serving, f"{CALL}\n{OTHER}", tools=[WEATHER, TIME], parallel_tool_calls=False)
    assert [item.name for item in response.output] == ["weather"]


async def test_a_streamed_message_comes_in_openais_events(serving: Scripted) -> None:
    events = await stream(serving, "Hello there.")
    assert kinds(events) == ["created", "in_progress", *MESSAGE, "completed"]
    final = check_stream(events)
    assert final.output_text == "Hello there."
    assert len([event for event in events if event.type == "response.output_text.delta"]) == 3
    added = next(event for event in events if event.type == "response.output_item.added")
    assert (added.item.status, added.item.content, added.output_index) == ("in_progress", [], 0)
    assert bare(final) == bare(await ask(serving, "Hello there."))


async def test_streamed_calls_come_in_openais_events(serving: Scripted) -> None:
    says, tools = f"I look.\n{CALL}\n{OTHER}\nDone.", [WEATHER, TIME]
    events = await stream(serving, says, tools=tools)
    parts = [*MESSAGE, *CALLING, *CALLING, *MESSAGE]
    assert kinds(events) == merged(["created", "in_progress", *parts, "completed"])
    final = check_stream(events)
    assert [item.type for item in final.output] == ["message", "function_call", "function_call", "message"]
    for event in events:
        if hasattr(event, "item_id"):
            assert final.output[event.output_index].id == event.item_id
    assert bare(final) == bare(await ask(serving, says, tools=tools))


async def test_a_call_that_turns_out_to_be_none_is_text(serving: Scripted) -> None:
    """Its beginning was told and cannot be taken back; it ends incomplete, and is no part of the response."""
    events = await stream(serving, BROKEN, tools=[WEATHER])
    final = check_stream(events)
    dropped, said = [event.item for event in events if event.type == "response.output_item.done"]
    assert (dropped.type, dropped.status) == ("function_call", "incomplete")
    assert "response.function_call_arguments.done" not in [event.type for event in events]
    assert [item.id for item in final.output] == [said.id]
    assert final.output_text == BROKEN
    assert bare(final) == bare(await ask(serving, BROKEN, tools=[WEATHER]))


async def test_the_sdk_puts_a_stream_together(serving: Scripted) -> None:
    for says in (f"I look.\n{CALL}", BROKEN, "Hi.", ""):
        serving[0].says = says
        async with serving[1].responses.stream(model="scripted", input="x", tools=[WEATHER | {"strict": True}]) as told:
            async for _event in told:
                pass
            final = await told.get_final_response()
        again = await ask(serving, says, tools=[WEATHER | {"strict": True}])
        assert final.output_text == again.output_text
        assert [item.type for item in final.output] == [item.type for item in again.output]
    serving[0].says = "Hi."
    parsed = await serving[1].responses.parse(model="scripted", input="x")
    assert parsed.output_text == "Hi."


async def test_an_answer_of_nothing_is_an_empty_message(serving: Scripted) -> None:
    events = await stream(serving, "")
    assert kinds(events) == ["created", "in_progress", *(kind for kind in MESSAGE if "delta" not in kind), "completed"]
    assert check_stream(events).output_text == ""


@pytest.mark.parametrize("says", ["Hello there.", f"So. {CALL}", CALL[:60]])
async def test_an_answer_that_breaks_off_is_incomplete(says: str, serving: Scripted) -> None:
    serving[0].end = FinishReason.LENGTH
    response, events = await ask(serving, says, tools=[WEATHER]), await stream(serving, says, tools=[WEATHER])
    final = check_stream(events)
    assert events[-1].type == "response.incomplete"
    assert (response.status, response.completed_at) == ("incomplete", None)
    assert response.incomplete_details.reason == "max_output_tokens"
    status = "incomplete" if response.output[-1].type == "message" else "completed"
    assert response.output[-1].status == status
    assert bare(final) == bare(response)
    kept = await serving[1].responses.retrieve(response.id)
    assert kept == response


async def test_logprobs_are_told_where_they_are_included(serving: Scripted) -> None:
    how: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, "tools": [WEATHER]}
    says = f"I look.\n{CALL}\nSo."
    response, events = await ask(serving, says, **how), await stream(serving, says, **how)
    assert serving[0].prompts[-1].logprobs == 2
    for item, text in ((response.output[0], "I look."), (response.output[2], "So.")):
        told = b"".join(bytes(each.bytes) for each in item.content[0].logprobs).decode()
        assert text in told
        assert "weather" not in told
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    streamed = [each.token for event in deltas for each in event.logprobs]
    messages = [item for item in check_stream(events).output if item.type == "message"]
    assert streamed == [each.token for item in messages for each in item.content[0].logprobs]
    assert bare(check_stream(events)) == bare(response)
    assert (await ask(serving, says)).output[0].content[0].logprobs == []


async def test_stop_and_the_extras_of_chats_are_honoured(serving: Scripted) -> None:
    extra = {"stop": ["there"], "seed": 3, "top_k": 5, "repetition_penalty": 1.1, "min_tokens": 1}
    response = await ask(serving, "Hello there.", extra_body=extra)
    assert (response.output_text, response.status) == ("Hello ", "completed")
    sampling = serving[0].prompts[-1].sampling
    assert (sampling.seed, sampling.top_k, sampling.repetition_penalty) == (3, 5, 1.1)


async def test_a_failure_in_mid_stream_is_told_as_an_event(serving: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = serving[0].generate

    async def breaking(prompt: Any) -> AsyncIterator[Any]:
        async for number, token in _numbered(whole(prompt)):
            if number == 2:
                raise EngineFailure("The step failed.")
            yield token

    monkeypatch.setattr(serving[0], "generate", breaking)
    with pytest.raises(openai.APIError, match="The step failed") as raised:
        await stream(serving, "Hello there.")
    assert raised.value.code == "engine_failure"
    body = {"model": "scripted", "input": "Hello?", "stream": True}
    told = await serving[1]._client.post(f"{serving[1].base_url}responses", json=body)
    events = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: {")]
    *_, error, failed = events
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    details = {"code": "engine_failure", "message": "The step failed.", "param": None}
    assert error == details | {"type": "error", "sequence_number": len(events) - 2, "error": error["error"]}
    assert error["error"] == details | {"type": "server_error"}
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "server_error", "message": "The step failed."}
    with pytest.raises(openai.NotFoundError):
        await serving[1].responses.retrieve(failed["response"]["id"])
    with pytest.raises(openai.InternalServerError):
        await ask(serving)


async def _numbered(tokens: AsyncIterator[Any]) -> AsyncIterator[tuple[int, Any]]:
    number = 0
    async for token in tokens:
        yield number, token
        number += 1


async def test_the_events_are_named_and_nothing_follows_the_last(serving: Scripted) -> None:
    body = {"model": "scripted", "input": "Hi", "stream": True}
    raw = await serving[1]._client.post(f"{serving[1].base_url}responses", json=body)
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["brie-adapter-version"] == "base"
    *blocks, rest = raw.text.split("\n\n")
    assert rest == ""
    for block in blocks:
        event, data = block.split("\n")
        assert data.startswith("data: {")
        assert event == f"event: {json.loads(data.removeprefix('data: '))['type']}"
    assert "[DONE]" not in raw.text
    assert "response.completed" in blocks[-1]
