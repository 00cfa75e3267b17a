"""Answers that call tools, as a grammar: what may follow the primer, or where calls stand in text. It knows no schema.

A call that the grammar lets through is one that `tool_calls` reads: an object with the name first, then the arguments.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from brie_core.errors import InvalidRequest
from brie_core.text.codec import TextCodec
from brie_core.text.tool_formats import ToolFormat, format_of
from brie_server.generation.form_grammar import JsonAnswer, quoted, schema_text
from brie_server.generation.tool_prompt import Offer

MOST_MORE_CALLS = 31
"""Of one answer, after its first: a small model that may go on calling often does."""
_NOT_TOLD_APART = (
    "This model writes calls as bare JSON objects, which cannot be told from content that is JSON: leave "
    "response_format out, or set tool_choice to 'none', 'required' or a tool."
)
_NO_PARAMETERS = {"type": "object", "properties": {}}
_ANYTHING = {"type": "object"}


@dataclass(frozen=True, slots=True)
class ToolAnswerForm:
    """An answer that may call tools. Where it has to, all calls fit their tools; else those of strict tools do."""

    offer: Offer
    content: JsonAnswer | None = None
    """What an answer without a call has to be; None is any text."""

    @property
    def param(self) -> str:
        """A grammar that is refused as a whole may be so for either."""
        return "tools" if self.content is None or self._must_call else self.content.param

    @property
    def _must_call(self) -> bool:
        return self.offer.must_call or self.offer.only is not None

    def grammar(self, codec: TextCodec) -> str:
        """Raises InvalidRequest for parameters that are not those of an object, or too large."""
        marks = _Marks(codec, format_of(codec.chat_template))
        return "\n".join([*self._start(marks), *marks.series(self.offer), *self._calls(marks.format)])

    def _start(self, marks: "_Marks") -> Iterator[str]:
        if self._must_call:
            yield "start: series"
        elif self.content is not None:
            if marks.format.bare:
                raise InvalidRequest(_NOT_TOLD_APART, param="response_format")
            yield "start: content | opening series"
            yield f"content: %json {schema_text(self.content.schema, self.content.param)}"
        elif marks.format.bare:
            yield "start: BESIDE? | opening series"
            yield r"BESIDE: /[ \n]{0,8}[^{ \n](.|\n)*/"
        elif marks.is_special(marks.format.begin):
            yield "start: TEXT (opening series TEXT)*"
        else:
            yield "start: (upto inside series)* TEXT"
            yield f"upto[lazy]: TEXT {marks.begin}"
        yield r"TEXT: /(.|\n)*/"

    def _calls(self, form: ToolFormat) -> Iterator[str]:
        """What follows the quotation mark before the name, or for the one tool what follows its primer."""
        numbers = [number for number, tool in enumerate(self.offer.tools) if tool["function"]["name"] in self._names]
        yield "call: " + " | ".join(f"call_{number}" for number in numbers)
        for number in numbers:
            name = self.offer.tools[number]["function"]["name"]
            begun = "" if self.offer.only else f'{quoted(name)} "\\"," " "? {quoted(quoted(form.arguments) + ":")} '
            yield f'call_{number}: {begun}" "? arguments_{number} /\\n?/ "}}"'
            yield f"arguments_{number}: %json {self._arguments(number, name)}"

    @property
    def _names(self) -> frozenset[str]:
        return self.offer.names

    def _arguments(self, number: int, name: str) -> str:
        is_held = self._must_call or name in self.offer.strict
        parameters = self.offer.tools[number]["function"]["parameters"] if is_held else _ANYTHING
        return schema_text(_of_object(parameters, number), _param(number))


def _of_object(parameters: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    if parameters == _NO_PARAMETERS:
        return {**parameters, "additionalProperties": False}
    if parameters.get("type", "object") != "object":
        raise InvalidRequest("A tool's parameters must be of the type 'object'.", param=_param(number))
    return {"type": "object", **parameters}


def _param(number: int) -> str:
    return f"tools[{number}].function.parameters"


class _Marks:
    """The marks of a format as a grammar has them: text, or a token of their own."""

    def __init__(self, codec: TextCodec, form: ToolFormat) -> None:
        self._codec, self.format = codec, form

    @property
    def begin(self) -> str:
        return self._mark(self.format.begin)

    def is_special(self, mark: str) -> bool:
        """Whether decoding would drop it; as text no token may then spell it."""
        ids = self._codec.encode(mark)
        return len(ids) == 1 and ids[0] in self._codec.special_ids

    def _mark(self, mark: str) -> str:
        return f"<[{self._codec.encode(mark)[0]}]>" if self.is_special(mark) else quoted(mark)

    def series(self, offer: Offer) -> Iterator[str]:
        """Calls from within the first one's name on, and how one is opened."""
        form, end = self.format, self._mark(self.format.end) if self.format.end else ""
        yield f"opening: {'' if form.bare else self.begin} inside"
        yield f"inside: SPACE? {quoted(form.opening) if form.opening else ''} SPACE? object"
        yield 'object: "{" SPACE? "\\"name\\":" " "? "\\""'
        yield "SPACE: /[ \\n]/"
        if offer.ends_after_one:
            yield "series: call"
        elif form.between:
            yield f"series: call (SPACE? {quoted(form.between)} SPACE? object call){{0,{MOST_MORE_CALLS}}} {end}"
        else:
            yield f"series: call (SPACE? {end} (SPACE? opening call SPACE? {end}){{0,{MOST_MORE_CALLS}}})?"
