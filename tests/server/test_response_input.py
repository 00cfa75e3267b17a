"""Items to kept items and chat messages: what is one turn is one message, and results answer calls."""

from typing import Any

import pytest

from brie_core.errors import InvalidRequest
from brie_server.api.response_input import chat_messages, check_results, kept_item
from brie_server.schema.response_items import InputItem


def kept(*items: dict[str, Any]) -> list[Any]:
    return [kept_item(InputItem.model_validate(item), f"id_{number}") for number, item in enumerate(items)]


def call(number: int = 1, arguments: str = "{}") -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{number}", "name": "look", "arguments": arguments}


def result(number: int = 1) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": "seen"}


def said(role: str, text: str = "x") -> dict[str, Any]:
    return {"role": role, "content": text}


def told(*items: dict[str, Any], instructions: str | None = None) -> list[tuple[str, str | None, int]]:
    """Role, content and number of calls of each message."""
    messages = chat_messages(instructions, kept(*items))
    return [(message.role, message.content, len(message.tool_calls or ())) for message in messages]


def test_kept_items_have_openais_form() -> None:
    message, answer, calling, output = kept(said("user", "a"), said("assistant", "b"), call(), result())
    assert message == {
        "id": "id_0",
        "type": "message",
        "status": "completed",
        "role": "user",
        "content": [{"type": "input_text", "text": "a"}],
    }
    assert answer["content"] == [{"type": "output_text", "annotations": [], "logprobs": [], "text": "b"}]
    assert calling == call() | {"id": "id_2", "status": "completed"}
    assert output == result() | {"id": "id_3", "status": "completed"}


def test_keeping_what_was_kept_changes_nothing() -> None:
    items = kept(said("developer"), said("assistant"), call(), result())
    assert [kept_item(InputItem.model_validate(item), item["id"]) for item in items] == items


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([said("user")], [("user", "x", 0)]),
        ([call(1), call(2), result(1), result(2)], [("assistant", None, 2), ("tool", "seen", 0), ("tool", "seen", 0)]),
        ([said("assistant", "a"), call()], [("assistant", "a", 1)]),
        ([call(), said("assistant", "b")], [("assistant", "b", 1)]),
        ([said("assistant", "a"), call(), said("assistant", "b")], [("assistant", "a\nb", 1)]),
        ([said("assistant", "a"), said("assistant", "b")], [("assistant", "a", 0), ("assistant", "b", 0)]),
        ([call(1), result(1), call(2)], [("assistant", None, 1), ("tool", "seen", 0), ("assistant", None, 1)]),
        ([call(number) for number in range(200)], [("assistant", None, 200)]),
    ],
)
def test_what_is_one_turn_is_one_message(items: list[Any], messages: list[Any]) -> None:
    assert told(*items) == messages


def test_instructions_come_first() -> None:
    assert told(said("system"), instructions="y") == [("system", "y", 0), ("system", "x", 0)]
    assert told(said("user"), instructions="") == [("user", "x", 0)]


def test_a_result_needs_its_call_before_it() -> None:
    check_results(kept(call(), result()), first=1)
    check_results(kept(result(), said("user")), first=1)  # what was accepted before is not asked again
    for items, first, param in (
        ([said("user"), result()], 0, "input[1].call_id"),
        ([said("user"), result()], 1, "input[0].call_id"),
        ([result(), call()], 0, "input[0].call_id"),
        ([call(2), result(1)], 0, "input[1].call_id"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            check_results(kept(*items), first)
        assert refused.value.param == param
