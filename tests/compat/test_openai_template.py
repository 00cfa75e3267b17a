"""Vllm's fields for how a conversation is shown, through the unmodified openai SDK."""

from typing import Any

import httpx2
import openai
import pytest
from openai import OpenAI

from brie_processes import BrieProcesses

ASKED = {"role": "user", "content": "Name a cheese."}
BEGUN = {"role": "assistant", "content": "A good one is"}


@pytest.fixture
def client(brie: BrieProcesses) -> OpenAI:
    return brie.client()


def ids(brie: BrieProcesses, messages: Any, **how: Any) -> list[int]:
    told = httpx2.post(f"{brie.url}/tokenize", json={"messages": messages, **how})
    assert told.status_code == 200, told.text
    return list(told.json()["tokens"])


def test_the_last_message_goes_on(client: OpenAI, brie: BrieProcesses, tokenizer: Any) -> None:
    expected = tokenizer.apply_chat_template([ASKED, BEGUN], continue_final_message=True)["input_ids"]
    how: Any = {"continue_final_message": True, "add_generation_prompt": False}
    assert ids(brie, [ASKED, BEGUN], **how) == expected
    messages: Any = [ASKED, BEGUN]
    chat = client.chat.completions.create(model="tiny", messages=messages, temperature=0, max_tokens=8, extra_body=how)
    text = client.completions.create(model="tiny", prompt=expected, temperature=0, max_tokens=8)
    assert chat.choices[0].message.content == text.choices[0].text
    assert chat.usage and chat.usage.prompt_tokens == len(expected)


def test_no_turn_is_opened_where_none_is_wanted(brie: BrieProcesses, tokenizer: Any) -> None:
    expected = tokenizer.apply_chat_template([ASKED])["input_ids"]
    assert ids(brie, [ASKED], add_generation_prompt=False) == expected
    assert ids(brie, [ASKED]) == tokenizer.apply_chat_template([ASKED], add_generation_prompt=True)["input_ids"]


def test_a_switch_that_this_template_lacks_changes_nothing(brie: BrieProcesses) -> None:
    assert ids(brie, [ASKED], chat_template_kwargs={"enable_thinking": False}) == ids(brie, [ASKED])


@pytest.mark.parametrize(
    ("messages", "how", "param"),
    [
        ([ASKED], {"continue_final_message": True}, "continue_final_message"),
        ([ASKED, BEGUN], {"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ([ASKED], {"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ([ASKED], {"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs.enable_thinking"),
        ([ASKED], {"chat_template_kwargs": {"date_string": "x" * 65}}, "chat_template_kwargs.date_string"),
        ([ASKED], {"chat_template": "{{ 1 }}"}, "chat_template"),
        ([ASKED], {"documents": [{"text": "x"}]}, "documents"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    messages: Any, how: dict[str, Any], param: str, client: OpenAI, brie: BrieProcesses
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=messages, max_tokens=1, extra_body=how)
    assert refused.value.param == param
