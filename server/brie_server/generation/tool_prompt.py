"""The tools that an answer may call, as its prompt shows them. It knows no tokens and no HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from brie_core.text.chat_template import NO_VARIABLES, Message, Tool, Variable
from brie_core.text.codec import TextCodec
from brie_core.text.tool_formats import ToolFormat, format_of
from brie_core.text.tool_rendering import render_with_tools


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The tools that an answer may call."""

    tools: tuple[Tool, ...]
    must_call: bool = False
    """Whether the answer has to be a call."""
    only: str | None = None
    """The tool it has to call."""
    ends_after_one: bool = False
    """Whether the first call ends the answer."""
    strict: frozenset[str] = frozenset()
    """Names of those whose schema any call of them has to fit."""

    @property
    def names(self) -> frozenset[str]:
        """Of the tools that may be called."""
        return frozenset(map(_name, self.tools)) if self.only is None else frozenset((self.only,))

    def primer(self, form: ToolFormat) -> str:
        """What an answer that has to be a call begins with; the model goes on from there.

        It ends before a space: most vocabularies have that in the token of what follows.
        """
        if self.only is not None:
            return f'{form.primer}{self.only}", "{form.arguments}":'
        return form.primer if self.must_call else ""


def render_chat(
    codec: TextCodec,
    messages: Sequence[Message],
    offer: Offer | None,
    *,
    add_generation_prompt: bool = True,
    variables: Mapping[str, Variable] = NO_VARIABLES,
) -> str:
    """The conversation as the model reads it; an answer that has to be a call is begun where a turn of its is open."""
    primer = offer.primer(format_of(codec.chat_template)) if offer is not None and add_generation_prompt else ""
    rendered = render_with_tools(
        codec,
        messages,
        None if offer is None else offer.tools,
        add_generation_prompt=add_generation_prompt,
        variables=variables,
    )
    return rendered + primer


def _name(tool: Tool) -> str:
    name: str = tool["function"]["name"]
    return name
