"""An answer's pieces as items and events: nothing is lost, each item has its events, and the cut does not matter."""

from itertools import count
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brie_core.text.tool_formats import HERMES
from brie_server.api.response_output import ResponseOutput
from brie_server.engine.base import FinishReason, Logprobs
from brie_server.generation.answer_text import Piece, ScoredToken
from brie_server.generation.tool_calls import Event, Text, ToolCallParser
from brie_server.schema.logprobs import ChatLogprob

CALL = '<tool_call>{"name": "look", "arguments": {"at": "é"}}</tool_call>'
FRAGMENTS = ["word", " ", "\n", "<tool_call>", "</tool_call>", "{", "}", CALL, CALL[:40], CALL[:30] + "oops"]
texts = st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join)
cuts = st.lists(st.integers(1, 9), min_size=1, max_size=30)
ends = st.sampled_from([FinishReason.STOP, FinishReason.LENGTH])


def pieces_of(text: str, sizes: list[int], finish: FinishReason) -> list[Piece]:
    """As a tool answer gives them."""
    parser, pieces, at, number = ToolCallParser(HERMES, frozenset({"look"})), [], 0, 0
    while at < len(text):
        size = sizes[number % len(sizes)]
        pieces.append(piece_of(parser.add(text[at : at + size])))
        at, number = at + size, number + 1
    return [*pieces, piece_of(parser.close(), finish)]


def piece_of(events: list[Event], finish: FinishReason | None = None) -> Piece:
    text = "".join(event.text for event in events if isinstance(event, Text))
    return Piece(text, 1, finish, events=tuple(events))


def logprobs_of(tokens: Any) -> list[ChatLogprob]:
    return [ChatLogprob(token=str(token.id), logprob=0, bytes=[], top_logprobs=[]) for token in tokens]


def read(pieces: list[Piece]) -> tuple[list[Any], list[Any]]:
    """Events and items."""
    output = ResponseOutput(lambda prefix, number: f"{prefix}_{number}", logprobs_of, count())
    events: list[Any] = [event for piece in pieces for event in output.add(piece)]
    return events, list(output.items)


def content(items: list[Any]) -> list[Any]:
    return [item.arguments if item.type == "function_call" else item.content[0].text for item in items]


def check_item(events: list[Any]) -> None:
    """The events of one item: it begins, grows and ends in OpenAI's order, and its parts are the whole."""
    kinds = [event.type.removeprefix("response.") for event in events]
    item, deltas = events[-1].item, [event.delta for event in events if hasattr(event, "delta")]
    if item.type == "message":
        grown = ["output_text.delta"] * len(deltas)
        around = ["output_item.added", "content_part.added"], ["output_text.done", "content_part.done"]
        assert kinds == [*around[0], *grown, *around[1], "output_item.done"]
        assert events[-3].text == events[-2].part.text == item.content[0].text == "".join(deltas)
    else:
        done = ["function_call_arguments.done"] if item.status == "completed" else []
        assert kinds == [
            "output_item.added",
            *["function_call_arguments.delta"] * len(deltas),
            *done,
            "output_item.done",
        ]
        assert item.arguments == "".join(deltas)
    assert events[0].item.id == item.id
    assert {event.item_id for event in events if hasattr(event, "item_id")} <= {item.id}


@given(texts, cuts, ends)
@example(f"a {CALL}\nb", [200], FinishReason.STOP)
@example(CALL[:40], [3], FinishReason.LENGTH)
def test_each_item_has_its_events_and_the_cut_does_not_matter(text: str, sizes: list[int], end: FinishReason) -> None:
    events, items = read(pieces_of(text, sizes, end))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    by_index: dict[int, list[Any]] = {}
    for event in events:
        by_index.setdefault(event.output_index, []).append(event)
    assert [event.output_index for event in events] == [place for place, own in by_index.items() for _ in own]
    for own in by_index.values():
        check_item(own)
    ended = [own[-1].item for own in by_index.values()]
    kept = [item for item in ended if item.type == "message" or item.status == "completed"]
    assert items == kept
    _, whole = read(pieces_of(text, [max(len(text), 1)], end))
    assert content(items) == content(whole)
    assert items


@given(texts, cuts)
def test_nothing_that_was_said_is_lost(text: str, sizes: list[int]) -> None:
    pieces = pieces_of(text, sizes, FinishReason.STOP)
    _, items = read(pieces)
    said = "".join(piece.text for piece in pieces)
    assert "".join(item.content[0].text for item in items if item.type == "message") == said


@pytest.mark.parametrize("finish", list(FinishReason))
def test_only_what_broke_off_is_incomplete(finish: FinishReason) -> None:
    _, (message,) = read([Piece("a", 1), Piece("b", 2, finish)])
    assert message.status == ("incomplete" if finish is FinishReason.LENGTH else "completed")


def scored(*ids: int) -> tuple[ScoredToken, ...]:
    return tuple(ScoredToken(each, 0, Logprobs(-1.0, 1, ())) for each in ids)


def test_logprobs_stand_with_the_text_and_those_of_calls_are_left_out() -> None:
    parser = ToolCallParser(HERMES, frozenset({"look"}))
    told = [("a", 1), ("<tool_call>", 2), ('{"name": "look", "arguments": {', 3), ("}}", 4), ("</tool_call>b", 5)]
    pieces = [
        Piece("", 0, tokens=scored(number), events=tuple(parser.add(text)) or (Text(""),)) for text, number in told
    ]
    events, items = read([*pieces, Piece("", 0, FinishReason.STOP, scored(6))])
    assert [[each.token for each in item.content[0].logprobs] for item in (items[0], items[2])] == [["1"], ["5", "6"]]
    deltas = [event.logprobs for event in events if event.type == "response.output_text.delta"]
    assert [each.token for logprobs in deltas for each in logprobs] == ["1", "5", "6"]
