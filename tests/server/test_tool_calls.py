"""Tool calls in text: nothing is lost, nothing is told too early, and the cut into pieces does not matter."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from brie_core.text.tool_formats import HERMES, LLAMA, MISTRAL, ToolFormat
from brie_server.generation.tool_calls import (
    Arguments,
    CallBegun,
    CallDropped,
    CallEnded,
    Event,
    Text,
    ToolCallParser,
)

NAMES = frozenset({"look", "now"})
FORMATS = [HERMES, LLAMA, MISTRAL]
LOOK = '{"name": "look", "arguments": {"at": "a \\"cat\\" {é🧀}", "n": [1, {"deep": null}]}}'
FRAGMENTS = [
    *("<tool_call>", "</tool_call>", "<tool_", "</tool_", "<|python_tag|>"),
    *("[TOOL_CALLS]", "[TOOL_", "[", "]", ",", ";"),
    *(" ", "\n", "word", "{", "}", '"', "<", "\\", '{"city": "Paris"}', '"name": "look"', '"arguments": {', "{}"),
    *(LOOK, '{"name": "now"}', '{"parameters": {"x": 1.5e3}, "name": "look"}', '{"name": "other", "arguments": {}}'),
    *('{"name": "look", "arguments": "{\\"a\\": 1}"}', '{"name": "look", "arguments": {"a": 1,}}', "<tool_call>\n{"),
]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)


def joined(events: list[Event]) -> list[Event]:
    """As if all had come in one piece."""
    told: list[Event] = []
    for event in events:
        last = told[-1] if told else None
        if isinstance(event, Text) and isinstance(last, Text):
            told[-1] = Text(last.text + event.text)
        elif isinstance(event, Arguments) and isinstance(last, Arguments) and last.index == event.index:
            told[-1] = Arguments(event.index, last.text + event.text)
        else:
            told.append(event)
    return told


def read(form: ToolFormat, *pieces: str) -> list[Event]:
    parser = ToolCallParser(form, NAMES)
    events = [event for piece in pieces for event in parser.add(piece)]
    return joined(events + parser.close())


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def calls_of(events: list[Event]) -> list[tuple[str, str]]:
    """Name and arguments of the calls that came to their end."""
    names = {event.index: event.name for event in events if isinstance(event, CallBegun)}
    ended = [event.index for event in events if isinstance(event, CallEnded)]
    assert set(names) == set(ended) | {event.index for event in events if isinstance(event, CallDropped)}
    given = dict.fromkeys(names, "")
    for event in events:
        if isinstance(event, Arguments):
            given[event.index] += event.text
    return [(names[index], given[index]) for index in ended]


@given(texts, st.sampled_from(FORMATS), st.data())
@settings(max_examples=300, deadline=None)
def test_the_cut_into_pieces_changes_nothing(text: str, form: ToolFormat, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert read(form, *pieces) == read(form, text) == read(form, *text)


@given(texts, st.sampled_from(FORMATS))
@example("<tool_<tool_call>" + LOOK, HERMES)
@example("<tool_call><tool_call>" + LOOK + "</tool_call>", HERMES)
@example("[TOOL_CALLS][[TOOL_CALLS][" + LOOK + "]", MISTRAL)
@example('{"name": "look", "parameters": {}}; {"name": "now"}\n' + LOOK + " ; so", LLAMA)
@settings(max_examples=300, deadline=None)
def test_text_and_calls_are_all_that_was_said(text: str, form: ToolFormat) -> None:
    """Walked from its beginning, what was said is the text, and the calls with the marks around them."""
    events, at = read(form, text), 0
    calls = iter(calls_of(events))
    for event in events:
        if isinstance(event, Text):
            while not text.startswith(event.text, at):
                assert text[at].isspace()
                at += 1
            at += len(event.text)
        elif isinstance(event, CallEnded):
            at = after_call(text, at, form, next(calls))
    assert not text[at:].strip()


def after_call(text: str, at: int, form: ToolFormat, call: tuple[str, str]) -> int:
    before = rf"\s*({re.escape(form.begin)}\s*{re.escape(form.opening)}?|{re.escape(form.between)})?\s*(?={{)"
    found = re.compile(before).match(text, at)
    assert found is not None
    said, end = json.JSONDecoder().raw_decode(text, found.end())
    arguments = said.get("arguments", said.get("parameters", {}))
    assert call[0] == said["name"]
    assert json.loads(call[1]) == (json.loads(arguments) if isinstance(arguments, str) else arguments)
    closed = re.compile(rf"\s*{re.escape(form.end)}").match(text, end) if form.end else None
    return closed.end() if closed else end


@pytest.mark.parametrize(
    ("form", "said", "text", "calls"),
    [
        (HERMES, "<tool_call>\n" + LOOK + "\n</tool_call>", "", ["look"]),
        (HERMES, "I look.\n<tool_call>" + LOOK + "</tool_call>\n", "I look.", ["look"]),
        (HERMES, "<tool_call>" + LOOK + '</tool_call>\n<tool_call>{"name": "now"}</tool_call>', "", ["look", "now"]),
        (HERMES, "<tool_call>" + LOOK, "", ["look"]),
        (HERMES, "<tool_call>" + LOOK + "</tool_call> Done.", " Done.", ["look"]),
        (HERMES, '{"name": "now"}', '{"name": "now"}', []),
        (HERMES, "<tool_call>" + LOOK[:-1], "<tool_call>" + LOOK[:-1], []),
        (HERMES, "a < b <tool", "a < b <tool", []),
        (HERMES, "\n\n", "\n\n", []),
        (LLAMA, LOOK, "", ["look"]),
        (LLAMA, "\n" + LOOK + "; " + LOOK, "", ["look", "look"]),
        (LLAMA, "<|python_tag|>" + LOOK, "", ["look"]),
        (LLAMA, "I look.<|python_tag|>" + LOOK, "I look.", ["look"]),
        (LLAMA, "So: " + LOOK, "So: " + LOOK, []),
        (LLAMA, '{"city": "Paris"}', '{"city": "Paris"}', []),
        (LLAMA, '<|python_tag|>look.call(at="x")', '<|python_tag|>look.call(at="x")', []),
        (MISTRAL, "[TOOL_CALLS] [" + LOOK + ', {"name": "now", "arguments": {}}]', "", ["look", "now"]),
        (MISTRAL, "[TOOL_CALLS]" + LOOK, "", ["look"]),
        (MISTRAL, "[TOOL_CALLS][" + LOOK + ", and so on", ", and so on", ["look"]),
        (MISTRAL, "[" + LOOK + "]", "[" + LOOK + "]", []),
    ],
)
def test_each_format(form: ToolFormat, said: str, text: str, calls: list[str]) -> None:
    events = read(form, said)
    assert text_of(events) == text
    assert [name for name, _ in calls_of(events)] == calls


@pytest.mark.parametrize(
    "call",
    [
        "look at this",
        '{"name": "look", "arguments": {"a": 1,}}',
        '{"name": "look", "arguments": [1]}',
        '{"name": "look", "arguments": "x"}',
        '{"name": "look", "arguments": "[]"}',
        '{"name": "look", "arguments": {"a": "line\nbreak"}}',
        '{"name": "look", "arguments": {"a": NaN}}',
        '{"name": "look", "arguments": {"a": 1' + "0" * 5000 + "}}",
        '{"name": "look", "arguments": {}, "parameters": {}}',
        '{"name": "look", "name": "now", "arguments": {}}',
        '{"name": "look", "arguments": {]}',
        '{"name": "look" "arguments": {}}',
        '{"name": 3, "arguments": {}}',
        '{"name": "unknown", "arguments": {}}',
        '{"arguments": {"a": 1}}',
        '{"name": "look", "arguments": ' + '{"a":' * 100 + "1" + "}" * 101,
        "{}",
    ],
)
def test_what_is_no_call_is_text(call: str) -> None:
    said = f"So:\n<tool_call>\n{call}\n</tool_call> there"
    events = read(HERMES, said)
    assert text_of(events) == said
    assert calls_of(events) == []


def test_a_call_after_one_that_broke_is_found() -> None:
    events = read(HERMES, '<tool_call>{"name": "look", "arguments": {"a": <tool_call>' + LOOK + "</tool_call>")
    assert text_of(events) == '<tool_call>{"name": "look", "arguments": {"a":'
    assert [name for name, _ in calls_of(events)] == ["look"]
    assert CallDropped(0) in events
    assert CallEnded(1) in events


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ('{"name": "now"}', "{}"),
        ('{"name": "now", "arguments": null}', "{}"),
        ('{"name": "now", "arguments": {}}', "{}"),
        ('{"name": "now", "arguments": "{\\"a\\": \\"\\ud83d\\"}"}', '{"a": "\\ud83d"}'),
        ('{"arguments": {"a":  1}, "name": "now"}', '{"a":  1}'),
        ('{"id": 3, "type": "function", "name": "now", "parameters": {"}": "{"}}', '{"}": "{"}'),
        ('{"n\\u0061me": "now", "arguments": {}}', "{}"),
    ],
)
def test_arguments_are_the_models_own_words(call: str, arguments: str) -> None:
    assert calls_of(read(HERMES, f"<tool_call>{call}</tool_call>")) == [("now", arguments)]


def test_a_call_is_told_while_it_is_made() -> None:
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.add('Hm <tool_call>{"name": "look", "arg') == [Text("Hm")]
    assert parser.add('uments": {"at') == [CallBegun(0, "look"), Arguments(0, '{"at')]
    assert parser.add('": 1') == [Arguments(0, '": 1')]
    assert parser.add("}") == [Arguments(0, "}")]
    assert parser.add("}\n") == [CallEnded(0)]
    assert parser.add("</tool_call>\n") == []
    assert parser.close() == []


def test_only_what_may_begin_a_mark_is_held_back() -> None:
    parser = ToolCallParser(HERMES, NAMES)
    assert parser.add("one <tool_") == [Text("one")]
    assert parser.add("two") == [Text(" <tool_two")]
    assert ToolCallParser(LLAMA, NAMES).add('{"city": ') == [Text('{"city": '.rstrip())]
