"""/v1/responses by the unmodified openai SDK, before an engine that says what each test wants it to say."""

import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI

from brie_core.errors import EngineFailure
from brie_processes import BrieProcesses
from brie_server.engine.base import FinishReason
from scripted_engine import ScriptedEngine, scripted

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

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scripted]:
    async with scripted(tiny_model, tmp_path_factory.mktemp("responses")) as both:
        yield both


@pytest.fixture
def serving(shared: Scripted) -> Scripted:
    shared[0].says, shared[0].end = "Yes.", FinishReason.STOP
    return shared


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
    given = {
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
    neutral = {
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
    listed = [item async for item in serving[1].responses.input_items.list(response.id, order="asc")]
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


async def test_a_response_can_be_gone_on_from(serving: Scripted) -> None:
    first = await ask(serving, "One.", input="First.", instructions="Be brief.")
    second = await ask(serving, "Two.", input="Second.", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    said = [turn("user", "First."), turn("assistant", "One."), turn("user", "Second.")]
    assert serving[0].was_shown == shown(turn("system", SYSTEM), *said)  # instructions are not carried over
    events = await stream(serving, "Three.", input="Third.", previous_response_id=second.id, instructions="Rhyme.")
    assert serving[0].was_shown == shown(
        turn("system", "Rhyme."), *said, turn("assistant", "Two."), turn("user", "Third.")
    )
    listed = serving[1].responses.input_items.list(check_stream(events).id, order="asc", limit=2)
    texts = [item.content[0].text async for item in listed]
    assert texts == ["First.", "One.", "Second.", "Two.", "Third."]


async def test_a_tool_loop(serving: Scripted) -> None:
    """As agents go about it: by previous_response_id, and by sending everything again."""
    tools = [WEATHER, TIME]
    first = await ask(serving, f"{CALL}\n{OTHER}", input="How is it?", tools=tools)
    results: Any = [
        {"type": "function_call_output", "call_id": item.call_id, "output": f"result {number}"}
        for number, item in enumerate(first.output)
    ]
    await ask(serving, "Fine.", input=results, previous_response_id=first.id, tools=tools)
    by_id = serving[0].was_shown
    assert "result 0" in by_id
    assert "result 1" in by_id
    again: Any = [{"role": "user", "content": "How is it?"}, *[item.model_dump() for item in first.output], *results]
    await ask(serving, "Fine.", input=again, tools=tools, store=False)
    assert serving[0].was_shown == by_id
    named: Any = [{"type": "item_reference", "id": item.id} for item in first.output]
    await ask(serving, "Fine.", input=[{"role": "user", "content": "How is it?"}, *named, *results], tools=tools)
    assert serving[0].was_shown == by_id


async def test_what_is_not_kept_cannot_be_asked_for(serving: Scripted) -> None:
    client = serving[1]
    response = await ask(serving, store=False)
    assert response.store is False
    for asking in (
        client.responses.retrieve(response.id),
        client.responses.delete(response.id),
        client.responses.cancel(response.id),
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            await asking
        assert missing.value.code == "response_not_found"
    with pytest.raises(openai.NotFoundError):
        _ = [item async for item in client.responses.input_items.list(response.id)]
    with pytest.raises(openai.BadRequestError) as unknown:
        await ask(serving, previous_response_id=response.id)
    assert (unknown.value.code, unknown.value.param) == ("previous_response_not_found", "previous_response_id")
    reference: Any = [{"type": "item_reference", "id": response.output[0].id}]
    with pytest.raises(openai.NotFoundError) as gone:
        await ask(serving, input=reference)
    assert (gone.value.code, gone.value.param) == ("item_not_found", "input[0].id")


async def test_deleting_in_mid_chain_leaves_the_chain_whole(serving: Scripted) -> None:
    client = serving[1]
    first = await ask(serving, "One.", input="First.")
    second = await ask(serving, "Two.", input="Second.", previous_response_id=first.id)
    for response in (first, second):
        third = await ask(serving, "Three.", input="Third.", previous_response_id=second.id)
        before = serving[0].was_shown
        await client.responses.delete(response.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)
    await ask(serving, input="Fourth.", previous_response_id=third.id)
    assert serving[0].was_shown == before + f"Three.<|im_end|>\n{shown(turn('user', 'Fourth.'))}"


async def test_a_response_is_read_as_it_was_answered(serving: Scripted) -> None:
    events = await stream(serving, f"I look.\n{CALL}", tools=[WEATHER], metadata={"a": "ä"})
    final = check_stream(events)
    assert await serving[1].responses.retrieve(final.id) == final
    with pytest.raises(openai.BadRequestError, match="background"):
        await serving[1].responses.cancel(final.id)
    with pytest.raises(openai.BadRequestError) as refused:
        await serving[1].responses.retrieve(final.id, stream=True)
    assert refused.value.param == "stream"


async def test_a_chain_outlives_the_server(tiny_model: Path, tmp_path: Path) -> None:
    async with scripted(tiny_model, tmp_path) as before:
        first = await ask(before, "One.", input="First.")
    async with scripted(tiny_model, tmp_path) as after:
        assert await after[1].responses.retrieve(first.id) == first
        await ask(after, input="Second.", previous_response_id=first.id)
        said = [turn("user", "First."), turn("assistant", "One."), turn("user", "Second.")]
        assert after[0].was_shown == shown(turn("system", SYSTEM), *said)


async def test_input_items_come_in_pages(serving: Scripted) -> None:
    turns: Any = [{"role": "user", "content": str(number)} for number in range(5)]
    response = await ask(serving, input=turns)
    listing = serving[1].responses.input_items.list
    page = await listing(response.id, limit=2)
    assert [item.content[0].text for item in page.data] == ["4", "3"]  # type: ignore[union-attr]
    assert (page.has_more, page.first_id, page.last_id) == (True, page.data[0].id, page.data[1].id)
    assert [item.content[0].text async for item in listing(response.id, limit=2)] == list("43210")  # type: ignore
    ascending = await listing(response.id, limit=3, order="asc", after=page.data[1].id)
    assert ([item.content[0].text for item in ascending.data], ascending.has_more) == (["4"], False)  # type: ignore
    for how in ({"after": "nope"}, {"limit": 0}, {"limit": 101}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError) as refused:
            await listing(response.id, **how)  # type: ignore[arg-type]
        assert refused.value.param == next(iter(how))


async def test_an_id_that_is_sent_twice_is_there_once(serving: Scripted) -> None:
    items: Any = [{"role": "assistant", "content": text, "id": "msg_x", "type": "message"} for text in "ab"]
    response = await ask(serving, input=items)
    listed = [item.id async for item in serving[1].responses.input_items.list(response.id, limit=1)]
    assert len(set(listed)) == 2


async def test_input_tokens_are_those_of_the_response(serving: Scripted) -> None:
    body: Any = {"input": "How is it?", "instructions": "Be brief.", "tools": [WEATHER]}
    response = await ask(serving, **body)
    counted = await serving[1].responses.input_tokens.count(model="scripted", **body)
    assert counted.input_tokens == response.usage.input_tokens
    more = await serving[1].responses.input_tokens.count(previous_response_id=response.id, input="x")
    assert more.input_tokens > 5


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
        ({"input": [HI | {"content": "\ud800"}]}, "input[0].content[0].text"),
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
        ({"tools": [WEATHER | {"parameters": {"x": "\ud800"}}]}, "tools[0].parameters"),
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
    for how in ({}, {"stream": True}):
        with pytest.raises(openai.NotFoundError) as unknown:
            await ask(serving, model="nope", **how)
        assert unknown.value.code == "model_not_found"


def test_a_real_model_answers_alike_in_both_forms(brie: BrieProcesses) -> None:
    client = brie.client(_strict_response_validation=True)
    asked: Any = {"model": "tiny", "input": "Who was Spinoza?", "temperature": 0, "max_output_tokens": 16}
    response = client.responses.create(**asked)
    chat = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": asked["input"]}], temperature=0, max_tokens=16
    )
    assert response.output_text == chat.choices[0].message.content
    assert chat.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (
        chat.usage.prompt_tokens,
        chat.usage.completion_tokens,
    )
    events = list(client.responses.create(**asked, stream=True))
    assert bare(check_stream(events)) == bare(response)
    following = client.responses.create(**asked | {"input": "And then?"}, previous_response_id=response.id)
    both: Any = [
        {"role": "user", "content": asked["input"]},
        *response.output,
        {"role": "user", "content": "And then?"},
    ]
    assert client.responses.create(**asked | {"input": both}).output_text == following.output_text
