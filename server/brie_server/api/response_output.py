"""Pieces of an answer to the items and events of a response. Pure: it knows no stream and no store.

Whole answers are read by it too, and only drop the events: so both are the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from brie_server.api.tool_answers import new_call_id
from brie_server.engine.base import FinishReason
from brie_server.generation.answer_text import Piece, ScoredToken
from brie_server.generation.tool_calls import Arguments, CallBegun, CallEnded, Event, Text
from brie_server.schema.logprobs import ChatLogprob
from brie_server.schema.response_objects import (
    ArgumentsDelta,
    ArgumentsDone,
    FunctionCall,
    ItemEvent,
    OutputEvent,
    OutputItem,
    OutputMessage,
    OutputText,
    PartEvent,
    StreamEvent,
    TextDelta,
    TextDone,
)

Status = Literal["in_progress", "completed", "incomplete"]


@dataclass(slots=True)
class _Message:
    """One that is being said."""

    id: str
    texts: list[str] = field(default_factory=list)
    logprobs: list[ChatLogprob] = field(default_factory=list)

    @property
    def part(self) -> OutputText:
        """Its content so far."""
        return OutputText(text="".join(self.texts), logprobs=self.logprobs)


@dataclass(slots=True)
class _Call:
    """One that is being made."""

    id: str
    name: str
    call_id: str
    arguments: list[str] = field(default_factory=list)

    def item(self, status: Status) -> FunctionCall:
        """The call so far."""
        arguments = "".join(self.arguments)
        return FunctionCall(id=self.id, status=status, call_id=self.call_id, name=self.name, arguments=arguments)


class ResponseOutput:
    """Reads one answer. A message lasts until a call begins; text after a call is a message of its own."""

    def __init__(
        self,
        fresh_id: Callable[[str, int], str],
        logprobs: Callable[[Sequence[ScoredToken]], list[ChatLogprob]],
        numbers: Iterator[int],
    ) -> None:
        self._fresh_id, self._logprobs, self._numbers = fresh_id, logprobs, numbers
        self._items: list[OutputItem] = []
        """Those that ended."""
        self._num_begun = 0
        self._open: _Message | _Call | None = None
        self._unsaid: list[ScoredToken] = []
        """Tokens that were not told with any text yet."""
        self._events: list[StreamEvent] = []

    @property
    def items(self) -> tuple[OutputItem, ...]:
        """What the response holds. A call that turned out to be none is not among them: its text is."""
        return tuple(self._items)

    def add(self, piece: Piece) -> list[StreamEvent]:
        """What is told of a piece; with the last one all ends."""
        self._unsaid += piece.tokens
        for event in piece.events or (Text(piece.text),):
            self._read(event)
        if piece.finish is not None:
            self._close(piece.finish)
        events, self._events = self._events, []
        return events

    def _read(self, event: Event) -> None:
        if isinstance(event, Text):
            if event.text:
                self._say(event.text)
        elif isinstance(event, CallBegun):
            self._begin_call(event.name)
        elif isinstance(event, Arguments):
            self._argue(event.text)
        else:
            self._end_call(is_whole=isinstance(event, CallEnded))

    def _say(self, text: str) -> None:
        message = self._open if isinstance(self._open, _Message) else self._begin_message()
        logprobs, self._unsaid = self._logprobs(self._unsaid), []
        message.texts.append(text)
        message.logprobs += logprobs
        self._tell(TextDelta, "output_text.delta", item_id=message.id, delta=text, logprobs=logprobs)

    def _begin_message(self) -> _Message:
        self._open = message = _Message(self._begun("msg"))
        item = OutputMessage(id=message.id, status="in_progress", content=[])
        self._tell(ItemEvent, "output_item.added", item=item)
        self._tell(PartEvent, "content_part.added", item_id=message.id, part=message.part)
        return message

    def _end_message(self, *, status: Status = "completed") -> None:
        if not isinstance(message := self._open, _Message):
            return
        part = message.part
        self._tell(TextDone, "output_text.done", item_id=message.id, text=part.text, logprobs=part.logprobs)
        self._tell(PartEvent, "content_part.done", item_id=message.id, part=part)
        self._end(OutputMessage(id=message.id, status=status, content=[part]))

    def _begin_call(self, name: str) -> None:
        self._end_message()
        self._open = call = _Call(self._begun("fc"), name, new_call_id())
        self._tell(ItemEvent, "output_item.added", item=call.item("in_progress"))

    def _argue(self, text: str) -> None:
        if isinstance(call := self._open, _Call):
            call.arguments.append(text)
            self._tell(ArgumentsDelta, "function_call_arguments.delta", item_id=call.id, delta=text)

    def _end_call(self, *, is_whole: bool) -> None:
        """What was told of a dropped one cannot be taken back: it ends incomplete, and its text follows."""
        if not isinstance(call := self._open, _Call):
            return
        if is_whole:
            item, self._unsaid = call.item("completed"), []
            told = {"item_id": item.id, "name": item.name, "arguments": item.arguments}
            self._tell(ArgumentsDone, "function_call_arguments.done", **told)
            self._end(item)
        else:
            self._end(call.item("incomplete"))
            self._items.pop()

    def _close(self, finish: FinishReason) -> None:
        """An answer of nothing at all is an empty message."""
        if not self._items and self._open is None:
            self._begin_message()
        if self._unsaid and isinstance(self._open, _Message):
            self._say("")
        self._end_message(status="incomplete" if finish is FinishReason.LENGTH else "completed")

    def _begun(self, prefix: str) -> str:
        self._num_begun += 1
        return self._fresh_id(prefix, self._num_begun - 1)

    def _end(self, item: OutputItem) -> None:
        self._tell(ItemEvent, "output_item.done", item=item)
        self._items.append(item)
        self._open = None

    def _tell(self, form: type[OutputEvent], kind: str, **fields: Any) -> None:
        """An event of the item that began last: no other is ever open."""
        number, place = next(self._numbers), self._num_begun - 1
        self._events.append(form(type=f"response.{kind}", sequence_number=number, output_index=place, **fields))
