"""An answer's text and tool calls as the wire has them, whole and in chunks. It knows no format and no template."""

import secrets
from collections.abc import Iterator, Sequence

from brie_server.generation.answer_text import Piece, ScoredToken
from brie_server.generation.tool_calls import Arguments, CallBegun, CallDropped, CallEvent
from brie_server.schema.chat import AnswerMessage, Delta
from brie_server.schema.tools import AnswerCall, AnswerFunction, DeltaCall, DeltaFunction


def answer_message(pieces: Sequence[Piece]) -> AnswerMessage:
    """The assistant's whole turn; content is null where there are calls and nothing else."""
    text = "".join(piece.text for piece in pieces)
    calls = _whole_calls([event for piece in pieces for event in piece.calls])
    return AnswerMessage(content=text or None, tool_calls=calls) if calls else AnswerMessage(content=text)


def deltas(piece: Piece) -> Iterator[tuple[Delta, tuple[ScoredToken, ...]]]:
    """What a piece adds, one text or one part of a call at a time; its tokens come with the first.

    A call that was dropped is in the text too; what was sent of it cannot be taken back, and never ends.
    """
    parts = [Delta(tool_calls=[call]) for event in piece.calls if (call := _delta_call(event))]
    if piece.text or (piece.tokens and not parts):
        parts.insert(0, Delta(content=piece.text) if piece.text else Delta())
    for number, delta in enumerate(parts):
        yield delta, () if number else piece.tokens


def _whole_calls(events: Sequence[CallEvent]) -> list[AnswerCall]:
    names = {event.index: event.name for event in events if isinstance(event, CallBegun)}
    arguments = dict.fromkeys(names, "")
    for event in events:
        if isinstance(event, Arguments):
            arguments[event.index] += event.text
        elif isinstance(event, CallDropped):
            del names[event.index]
    return [
        AnswerCall(id=new_call_id(), function=AnswerFunction(name=name, arguments=arguments[index]))
        for index, name in names.items()
    ]


def _delta_call(event: CallEvent) -> DeltaCall | None:
    if isinstance(event, CallBegun):
        function = DeltaFunction(name=event.name, arguments="")
        return DeltaCall(index=event.index, id=new_call_id(), type="function", function=function)
    if isinstance(event, Arguments):
        return DeltaCall(index=event.index, function=DeltaFunction(arguments=event.text))
    return None


def new_call_id() -> str:
    """What results of a call name it by."""
    return f"call_{secrets.token_hex(12)}"
