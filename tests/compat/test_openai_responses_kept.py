"""Responses that are kept: read, listed, deleted and gone on from, by the unmodified openai SDK."""

import shutil
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from asking_responses import (
    CALL,
    OTHER,
    SYSTEM,
    TIME,
    WEATHER,
    Scripted,
    ask,
    bare,
    check_stream,
    input_items,
    shown,
    stream,
    turn,
)
from brie_core.errors import BrieError
from brie_core.store.responses import ResponseStore
from brie_processes import BrieProcesses
from scripted_engine import scripted

pytestmark = pytest.mark.asyncio(loop_scope="session")


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
    listed = input_items(serving)(check_stream(events).id, order="asc", limit=2)
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
        _ = [item async for item in input_items(serving)(response.id)]
    with pytest.raises(openai.BadRequestError) as unknown:
        await ask(serving, previous_response_id=response.id)
    assert (unknown.value.code, unknown.value.param) == ("previous_response_not_found", "previous_response_id")
    reference: Any = [{"type": "item_reference", "id": response.output[0].id}]
    with pytest.raises(openai.NotFoundError) as gone:
        await ask(serving, input=reference)
    assert (gone.value.code, gone.value.param) == ("item_not_found", "input[0].id")


async def test_a_response_is_kept_before_it_is_told(serving: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request may name it at once; so one that cannot be kept has failed."""

    async def full(*_given: Any) -> None:
        raise BrieError("The disk is full.")

    monkeypatch.setattr(ResponseStore, "save", full)
    last = ""
    with pytest.raises(openai.APIError, match="The disk is full"):
        async for event in await ask(serving, stream=True):
            last = event.type
    assert last == "response.output_item.done"
    with pytest.raises(openai.InternalServerError, match="The disk is full"):
        await ask(serving)
    assert (await ask(serving, store=False)).output_text == "Yes."


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
    listing = input_items(serving)
    page = await listing(response.id, limit=2)
    assert [item.content[0].text for item in page.data] == ["4", "3"]
    assert (page.has_more, page.first_id, page.last_id) == (True, page.data[0].id, page.data[1].id)
    assert [item.content[0].text async for item in listing(response.id, limit=2)] == list("43210")
    ascending = await listing(response.id, limit=3, order="asc", after=page.data[1].id)
    assert ([item.content[0].text for item in ascending.data], ascending.has_more) == (["4"], False)
    for how in ({"after": "nope"}, {"limit": 0}, {"limit": 101}, {"order": "up"}):
        with pytest.raises(openai.BadRequestError) as refused:
            await listing(response.id, **how)
        assert refused.value.param == next(iter(how))


async def test_an_id_that_is_sent_twice_is_there_once(serving: Scripted) -> None:
    items: Any = [{"role": "assistant", "content": text, "id": "msg_x", "type": "message"} for text in "ab"]
    response = await ask(serving, input=items)
    listed = [item.id async for item in input_items(serving)(response.id, limit=1)]
    assert len(set(listed)) == 2


async def test_input_tokens_are_those_of_the_response(serving: Scripted) -> None:
    body: Any = {"input": "How is it?", "instructions": "Be brief.", "tools": [WEATHER]}
    response = await ask(serving, **body)
    counted = await serving[1].responses.input_tokens.count(model="scripted", **body)
    assert counted.input_tokens == response.usage.input_tokens
    more = await serving[1].responses.input_tokens.count(previous_response_id=response.id, input="x")
    assert more.input_tokens > 5


async def test_a_real_model_answers_alike_in_both_forms(brie: BrieProcesses) -> None:
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


async def test_a_chain_goes_on_under_another_name(brie: BrieProcesses, tiny_lora: Path) -> None:
    """Each response is answered by the version that its own model names, and says so."""
    client: Any = brie.client(_strict_response_validation=True)
    folder = shutil.copytree(tiny_lora, brie.home / "continuing")
    httpx2.post(f"{brie.url}/v1/load_lora_adapter", json={"lora_name": "continuing", "lora_path": str(folder)})
    version = client.models.retrieve("continuing").root
    asked: Any = {"model": "tiny", "input": "Who was Spinoza?", "temperature": 0, "max_output_tokens": 16}
    first = client.responses.with_raw_response.create(**asked)
    assert first.headers["brie-adapter-version"] == "base"
    how = asked | {"model": "continuing", "input": "And then?", "previous_response_id": first.parse().id}
    second = client.responses.with_raw_response.create(**how)
    assert (second.headers["brie-adapter-version"], second.parse().model) == (version, "continuing")
    assert second.parse().usage.input_tokens > first.parse().usage.total_tokens
    streamed = client.responses.with_raw_response.create(**how, stream=True)
    assert streamed.headers["brie-adapter-version"] == version
    assert bare(check_stream(list(streamed.parse()))) == bare(second.parse())
    base = client.responses.create(**how | {"model": "tiny"})
    assert base.output_text != second.parse().output_text
    client.models.delete("continuing")
