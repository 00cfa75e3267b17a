"""Tools to forms, without a server: which calls are let through, in the format of each kind of model."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from brie_core.errors import InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_core.text.tool_formats import HERMES, LLAMA, MISTRAL, ToolFormat
from brie_core.weights.base_model import BaseModel
from brie_server.generation import tool_grammar
from brie_server.generation.form_grammar import JsonAnswer
from brie_server.generation.forms import Forms
from brie_server.generation.tool_grammar import ToolAnswerForm
from brie_server.generation.tool_prompt import Offer
from hostile_schemas import object_of
from server.forms_asked import lets_through

SCHEMAS = {
    "weather": object_of(city={"type": "string", "maxLength": 8}),
    "weather_now": {"type": "object", "properties": {}},
}
TOOLS: Any = tuple({"type": "function", "function": {"name": name, "parameters": SCHEMAS[name]}} for name in SCHEMAS)
SAID = 'weather", "arguments": {"city": "x"}}'
NOW = '{"name": "weather_now", "arguments": {}}'
CALL = f'<tool_call>\n{{"name": "{SAID}\n</tool_call>'
WRONG = '<tool_call>\n{"name": "weather", "arguments": {"city": 3}}'
OTHER = '<tool_call>\n{"name": "other", "arguments": {}}'
LLAMA_SAID, LLAMA_NOW = (text.replace("arguments", "parameters") for text in (SAID, NOW))
MUST = Offer(tools=TOOLS, must_call=True)
ONE = Offer(tools=TOOLS, must_call=True, ends_after_one=True)
NAMED = Offer(tools=TOOLS, only="weather", ends_after_one=True)
STRICT = Offer(tools=TOOLS, strict=frozenset({"weather"}))


@pytest.fixture(scope="module")
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.fixture(scope="module")
def forms(tokenizer: Tokenizer) -> Forms:
    return Forms(tokenizer)


@dataclass(frozen=True)
class Case:
    """What follows the primer, if there is one; else the whole answer."""

    format: ToolFormat
    offer: Offer
    good: tuple[str, ...]
    bad: tuple[str, ...]


CASES = [
    Case(HERMES, MUST, (SAID, f"{SAID}\n</tool_call>\n<tool_call>\n{NOW}\n</tool_call>"), ("", 'weath", ', SAID[:-1])),
    Case(HERMES, ONE, (SAID, NOW[10:]), (f"{SAID}\n</tool_call>", 'weather", "arguments": {}}')),
    Case(HERMES, NAMED, (' {"city": "x"}}', '{"city":"x"}}'), (' {"city": "much too long"}}', " {}}")),
    Case(HERMES, STRICT, ("Words.", f"So: {CALL}\nmore", f"{CALL}\n{CALL}", "a < b <tool"), (WRONG, f"So: {WRONG}")),
    Case(HERMES, STRICT, ("", '{"name": 3}'), (OTHER, f"{CALL}{OTHER}")),
    Case(LLAMA, MUST, (LLAMA_SAID, f"{LLAMA_SAID}; {LLAMA_NOW}"), (SAID, f"{LLAMA_SAID}, {LLAMA_NOW}")),
    Case(LLAMA, STRICT, ("Words {", f'{{"name": "{LLAMA_SAID}'), ('{"x": 1}', " {")),
    Case(MISTRAL, MUST, (f"{SAID}]", f"{SAID}, {NOW}]"), (SAID, f"{SAID};")),
    Case(MISTRAL, STRICT, (f'[TOOL_CALLS][{{"name": "{SAID}]', "Words."), ('[TOOL_CALLS][{"name": "weather", "x',)),
]


@pytest.mark.parametrize("case", CASES)
def test_calls_are_held_to_their_tools_in_every_format(
    case: Case, forms: Forms, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool_grammar, "format_of", lambda _template: case.format)
    form = asyncio.run(forms.compiled(ToolAnswerForm(case.offer)))
    assert [text for text in case.good if not lets_through(form, tokenizer, text)] == []
    assert [text for text in case.bad if lets_through(form, tokenizer, text)] == []


def test_content_has_its_form_and_calls_theirs(forms: Forms, tokenizer: Tokenizer) -> None:
    content = JsonAnswer(object_of(a={"type": "boolean"}), "there")
    form = asyncio.run(forms.compiled(ToolAnswerForm(STRICT, content)))
    assert lets_through(form, tokenizer, '{"a": true}')
    assert lets_through(form, tokenizer, CALL)
    for text in ("Words.", '{"a": 3}', WRONG, f'{{"a": true}}{CALL}', f'{CALL}{{"a": true}}'):
        assert not lets_through(form, tokenizer, text)


def test_bare_calls_and_json_content_are_not_told_apart(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_grammar, "format_of", lambda _template: LLAMA)
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(forms.compiled(ToolAnswerForm(STRICT, JsonAnswer({}, "there"))))
    assert refused.value.param == "response_format"
