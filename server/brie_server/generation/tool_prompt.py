"""Tools as a conversation shows them to a model. It knows messages and templates, not tokens and not HTTP.

A template that has no place for tools would drop them, and calls and answers with them. There they are written into the
messages, in Hermes' format: the tools into the system message, results into a message of the user's.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from brie_core.errors import InvalidRequest
from brie_core.text.chat_template import NO_VARIABLES, Message, Tool, Variable
from brie_core.text.codec import TextCodec
from brie_server.generation.tool_formats import HERMES, ToolFormat, format_of

_ASKING = """You can call functions. Each line between <tools> and </tools> is one, with a schema of its arguments:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as JSON, in this form and with nothing after it:
<tool_call>
{{"name": "the function's name", "arguments": {{"argument": "value"}}}}
</tool_call>
Write one such block for each call. What a function gives back comes between <tool_response> and </tool_response>. \
Call functions only where they are needed; otherwise answer in words."""


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
    template, form = codec.chat_template, format_of(codec.chat_template)
    render = partial(codec.render, add_generation_prompt=add_generation_prompt, variables=variables)
    primer = offer.primer(form) if offer is not None and add_generation_prompt else ""
    if template is None or not template.reads_tools:
        return _render_written(render, messages, offer) + primer
    tools = None if offer is None else list(offer.tools)
    return render(_with_ids_for(form, messages), tools=tools) + primer


def _render_written(render: Callable[[list[Message]], str], messages: Sequence[Message], offer: Offer | None) -> str:
    written = written_out(messages, offer)
    try:
        return render(written)
    except InvalidRequest:
        if offer is None or messages[0]["role"] == "system":
            raise
        return render(_without_system_role(written))  # some templates refuse it


def written_out(messages: Sequence[Message], offer: Offer | None) -> list[Message]:
    """For a template that knows no tools: calls, results and the offer as text."""
    told: list[Message] = []
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        run = list(group)
        told += [_results(run)] if is_result else map(_calls_written, run)
    if offer is None:
        return told
    asking = _ASKING.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in offer.tools))
    if told and told[0]["role"] == "system":
        return [{**told[0], "content": f"{told[0]['content']}\n\n{asking}"}, *told[1:]]
    return [{"role": "system", "content": asking}, *told]


def _without_system_role(messages: Sequence[Message]) -> list[Message]:
    """The system message at the head of the next."""
    system, first, *others = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]


def _name(tool: Tool) -> str:
    name: str = tool["function"]["name"]
    return name


def _calls_written(message: Message) -> Message:
    if not message.get("tool_calls"):
        return message
    calls = [_call_written(call["function"]) for call in message["tool_calls"]]
    content = message.get("content")
    return {"role": message["role"], "content": "\n".join([content, *calls] if content else calls)}


def _call_written(function: Mapping[str, Any]) -> str:
    call = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"{HERMES.begin}\n{call}\n{HERMES.end}"


def _results(messages: Sequence[Message]) -> Message:
    """Results that stand together are one message: many templates want user and assistant to take turns."""
    blocks = (f"<tool_response>\n{message['content']}\n</tool_response>" for message in messages)
    return {"role": "user", "content": "\n".join(blocks)}


def _with_ids_for(form: ToolFormat, messages: Sequence[Message]) -> list[Message]:
    length = form.id_length
    return list(messages) if length is None else [_with_short_ids(message, length) for message in messages]


def _with_short_ids(message: Message, length: int) -> Message:
    short = dict(message)
    if "tool_call_id" in message:
        short["tool_call_id"] = message["tool_call_id"][-length:]
    if "tool_calls" in message:
        short["tool_calls"] = [{**call, "id": call["id"][-length:]} for call in message["tool_calls"]]
    return short
