"""How models write tool calls, as data. It knows the marks around a call, not how text is read or made.

In every format a call is a JSON object with a `name`, and `arguments` or `parameters`; what surrounds it differs.
"""

from dataclasses import dataclass

from brie_core.text.chat_template import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """The marks of one format. White space may stand between any two of them, and is no part of the answer's text."""

    begin: str
    """Opens a call, or a series of them."""
    opening: str = ""
    """One character that may follow `begin`."""
    between: str = ""
    """One character between two calls of a series; empty where each call has a `begin` of its own."""
    end: str = ""
    """Closes what `begin` opened. It may be missing: some models stop once the JSON is complete."""
    bare: bool = False
    """Whether an answer that begins with an object is a call without `begin`."""
    primer: str
    """What an answer that has to be a call begins with, up to the quotation mark before the name."""
    arguments: str = "arguments"
    """What the model calls them; either name is understood."""
    id_length: int | None = None
    """Templates that insist on a length of ids get so many of their last characters."""

    @property
    def marks(self) -> tuple[str, ...]:
        """Those that may be special tokens, which decoding would drop."""
        return tuple(mark for mark in (self.begin, self.end) if len(mark) > 1)


HERMES = ToolFormat(begin="<tool_call>", end="</tool_call>", primer='<tool_call>\n{"name": "')
"""Hermes, Qwen and many others; also what a model is asked for whose template knows no tools."""
LLAMA = ToolFormat(begin="<|python_tag|>", between=";", bare=True, primer='{"name": "', arguments="parameters")
"""Llama 3.1 to 3.3."""
MISTRAL = ToolFormat(
    begin="[TOOL_CALLS]", opening="[", between=",", end="]", primer='[TOOL_CALLS][{"name": "', id_length=9
)
"""Mistral from 7B v0.3 on."""


def format_of(template: ChatTemplate | None) -> ToolFormat:
    """The format that a template's own text shows; Hermes where it shows none."""
    if template is None or not template.reads_tools:
        return HERMES
    shown = template.source
    if MISTRAL.begin in shown:
        return MISTRAL
    if HERMES.begin not in shown and any(sign in shown for sign in (LLAMA.begin, "ipython", '"parameters"')):
        return LLAMA
    return HERMES
