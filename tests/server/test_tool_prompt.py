"""Tools as a model is shown them: by its own template, or written out where that has no place for them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer

from brie_core.errors import InvalidRequest
from brie_core.text.chat_template import ChatTemplate
from brie_core.text.tokenizer import Tokenizer
from brie_core.text.tool_formats import HERMES, LLAMA, MISTRAL, ToolFormat, format_of
from brie_core.weights.base_model import BaseModel
from brie_server.generation.detokenizer import Detokenizer
from brie_server.generation.tool_answer import decode_with_marks
from brie_server.generation.tool_prompt import Offer, render_chat

LOOK = {"type": "function", "function": {"name": "look", "description": "Sehen", "parameters": {"type": "object"}}}
OFFER = Offer(tools=(LOOK,))
USER = {"role": "user", "content": "Where?"}
CALL = {"id": "call_0123456789ab", "type": "function", "function": {"name": "look", "arguments": {"at": "ä"}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL, CALL]}
RESULT = {"role": "tool", "content": "There", "tool_call_id": "call_0123456789ab", "name": "look"}
TELLING = "{{ tools | tojson }}{% for m in messages %}|{{ m | tojson }}{% endfor %}"
TAKING_TURNS = """{% for m in messages %}{% if m.role != ('user' if loop.index0 % 2 == 0 else 'assistant') %}\
{{ raise_exception('take turns') }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"""


@pytest.fixture
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


def shown(tokenizer: Tokenizer, template: str, *messages: Any, offer: Offer | None = OFFER) -> str:
    tokenizer.chat_template = ChatTemplate(template, {})
    return render_chat(tokenizer, messages, offer)


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("{{ tools }}", True),
        ("{% if tools is defined %}x{% endif %}", True),
        ("{% if not tools is defined %}{% set tools = none %}{% endif %}{{ messages }}", True),
        ("{{ messages }} tools {# tools #} {{ 'tools' }}", False),
        ("{% set tools = 1 %}{{ messages.tools }}", False),
    ],
)
def test_whether_a_template_reads_tools_is_seen_in_its_code(source: str, reads: bool) -> None:
    assert ChatTemplate(source, {}).reads_tools is reads


@pytest.mark.parametrize(
    ("source", "form"),
    [
        ("{{ messages }}", HERMES),
        ("{{ messages }}[TOOL_CALLS]", HERMES),
        ("{{ tools }}", HERMES),
        ("{{ tools }}<tool_call>", HERMES),
        ("{{ tools }}[TOOL_CALLS]", MISTRAL),
        ('{{ tools }}{"name": function name, "parameters": ...}', LLAMA),
        ("{{ tools }}<|python_tag|>", LLAMA),
    ],
)
def test_the_format_is_the_templates(source: str, form: ToolFormat) -> None:
    assert format_of(ChatTemplate(source, {})) is form


def test_a_model_without_a_template_is_told_so(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = None
    with pytest.raises(InvalidRequest, match="no chat template"):
        render_chat(tokenizer, [USER], OFFER)


def test_a_template_that_reads_tools_is_given_all_as_it_is(tokenizer: Tokenizer) -> None:
    told = shown(tokenizer, TELLING, USER, CALLED, RESULT)
    assert list(map(json.loads, told.split("|"))) == [[LOOK], USER, CALLED, RESULT]


def test_tools_that_are_not_offered_are_not_shown(tokenizer: Tokenizer) -> None:
    assert shown(tokenizer, TELLING, USER, offer=None).startswith("null|")


def test_mistrals_templates_get_ids_of_nine_characters(tokenizer: Tokenizer) -> None:
    told = shown(tokenizer, TELLING + "{# [TOOL_CALLS] #}", USER, CALLED, RESULT)
    _, _, called, result = map(json.loads, told.split("|"))
    assert [call["id"] for call in called["tool_calls"]] == [result["tool_call_id"]] * 2 == ["3456789ab"] * 2


def test_the_default_models_template_gets_everything_written_out(tokenizer: Tokenizer) -> None:
    told = render_chat(tokenizer, [{"role": "system", "content": "Be brief."}, USER, CALLED, RESULT, RESULT], OFFER)
    system, user, assistant, results, rest = told.split("<|im_end|>\n")
    assert system.startswith("<|im_start|>system\nBe brief.\n\nYou can call functions.")
    assert json.loads(system.split("<tools>\n")[1].split("\n</tools>")[0]) == LOOK
    assert '{"name": "the function\'s name", "arguments": {"argument": "value"}}' in system
    assert user == "<|im_start|>user\nWhere?"
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "ä"}}\n</tool_call>'
    assert assistant == f"<|im_start|>assistant\n{call}\n{call}"
    result = "<tool_response>\nThere\n</tool_response>"
    assert results == f"<|im_start|>user\n{result}\n{result}"
    assert rest == "<|im_start|>assistant\n"


def test_what_was_said_before_a_call_stays_before_it(tokenizer: Tokenizer) -> None:
    told = render_chat(tokenizer, [USER, CALLED | {"content": "I look."}, RESULT], None)
    assert "assistant\nI look.\n<tool_call>" in told
    assert "You can call" not in told


def test_conversations_without_tools_are_as_they_were(tokenizer: Tokenizer) -> None:
    messages = [USER, {"role": "assistant", "content": "Here"}, USER]
    assert render_chat(tokenizer, messages, None) == tokenizer.render(messages, add_generation_prompt=True)


def test_a_template_without_a_system_role_shows_tools_to_the_user(tokenizer: Tokenizer) -> None:
    told = shown(tokenizer, TAKING_TURNS, USER, CALLED, RESULT, RESULT)
    assert told.startswith("[user]You can call functions.")
    assert "words.\n\nWhere?[assistant]<tool_call>" in told
    with pytest.raises(InvalidRequest, match="take turns"):
        shown(tokenizer, TAKING_TURNS, {"role": "system", "content": "x"}, USER)
    with pytest.raises(InvalidRequest, match="take turns"):
        shown(tokenizer, TAKING_TURNS, USER, USER)


@pytest.mark.parametrize(
    ("sign", "must", "named"),
    [
        ("", '<tool_call>\n{"name": "', '<tool_call>\n{"name": "look", "arguments":'),
        ("<|python_tag|>", '{"name": "', '{"name": "look", "parameters":'),
        ("[TOOL_CALLS]", '[TOOL_CALLS][{"name": "', '[TOOL_CALLS][{"name": "look", "arguments":'),
    ],
)
def test_an_answer_that_has_to_be_a_call_is_begun_in_the_prompt(
    sign: str, must: str, named: str, tokenizer: Tokenizer
) -> None:
    template = f"{{{{ tools }}}}{{# {sign} #}}>"
    free = shown(tokenizer, template, USER)
    assert shown(tokenizer, template, USER, offer=Offer(tools=(LOOK,), must_call=True)) == free + must
    assert shown(tokenizer, template, USER, offer=Offer(tools=(LOOK,), only="look")) == free + named


def test_marks_that_are_special_tokens_are_not_lost(default_model: BaseModel, tmp_path: Path) -> None:
    folder = shutil.copytree(default_model.folder, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
    fast.add_special_tokens(["<tool_call>", "</tool_call>"])
    fast.save(str(folder / "tokenizer.json"))
    tokenizer, said = Tokenizer(folder), 'Hm 🧀 <tool_call>\n{"a": "é"}\n</tool_call>'
    ids = tokenizer.encode(said + "<|im_end|>")
    assert "<tool_call>" not in tokenizer.decode(ids)
    decode = decode_with_marks(tokenizer, HERMES.marks)
    assert decode(ids) == said
    detokenizer = Detokenizer(decode)
    assert "".join(map(detokenizer.add, ids)) + detokenizer.flush() == said
