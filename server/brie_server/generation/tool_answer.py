"""One answer's tokens to pieces in which tool calls are told from text. It knows no engine and no schema."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby

from brie_core.text.codec import TextCodec
from brie_core.text.tool_formats import format_of
from brie_server.engine.base import FinishReason, Token
from brie_server.generation.answer_text import AnswerText, Piece
from brie_server.generation.tool_calls import CallEnded, Event, Text, ToolCallParser
from brie_server.generation.tool_prompt import Offer


class ToolAnswer:
    """As `AnswerText`. Stop strings count in the model's own text, before calls are looked for in it."""

    def __init__(self, codec: TextCodec, offer: Offer, stops: Sequence[str], min_tokens: int = 0) -> None:
        form = format_of(codec.chat_template)
        self._text = AnswerText(decode_with_marks(codec, form.marks), stops, min_tokens)
        self._parser = ToolCallParser(form, offer.names)
        self._parser.add(offer.primer(form))  # no event yet: it ends before the arguments begin
        self._ends_after_one = offer.ends_after_one
        self._is_called = False

    def add(self, token: Token) -> Piece:
        """The text and the parts of calls that become certain with this token."""
        piece = self._text.add(token)
        events, finish = self._parser.add(piece.text), piece.finish
        if self._ends_after_one and (end := _first_end(events)):
            events, finish = events[:end], FinishReason.STOP
        elif finish is not None:
            events += self._parser.close()
        self._is_called |= _first_end(events) > 0
        if finish is FinishReason.STOP and self._is_called:
            finish = FinishReason.TOOL_CALLS
        text = "".join(event.text for event in events if isinstance(event, Text))
        calls = tuple(event for event in events if not isinstance(event, Text))
        return replace(piece, text=text, calls=calls, events=tuple(events), finish=finish)


def _first_end(events: Sequence[Event]) -> int:
    """How many events there are up to the end of a call, with it; 0 if none ends."""
    return next((number for number, event in enumerate(events, 1) if isinstance(event, CallEnded)), 0)


def decode_with_marks(codec: TextCodec, marks: Sequence[str]) -> Callable[[Sequence[int]], str]:
    """The codec's `decode`, but for those marks that are special tokens in its vocabulary: it would drop them."""
    tokens = {mark: codec.encode(mark) for mark in marks}
    kept = {ids[0]: mark for mark, ids in tokens.items() if len(ids) == 1 and not codec.decode(ids)}
    if not kept:
        return codec.decode

    def decode(ids: Sequence[int]) -> str:
        runs = [(is_mark, list(run)) for is_mark, run in groupby(ids, kept.__contains__)]
        return "".join("".join(map(kept.__getitem__, run)) if is_mark else codec.decode(run) for is_mark, run in runs)

    return decode
