"""A conversation with tools as a model reads it, in training as in serving. It knows templates, no tokens and no HTTP.

A template that has no place for tools would drop them, and calls and answers with them. There they are written into the
messages, in Hermes' format: the tools into the system message, results into a message of the user's.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from brie_core.errors import InvalidRequest
from brie_core.text.chat_template import NO_VARIABLES, Message, Tool, Variable
from brie_core.text.codec import TextCodec
from brie_core.text.tool_formats import HERMES, ToolFormat, format_of

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


def render_with_tools(
    codec: TextCodec,
    messages: Sequence[Message],
    tools: Sequence[Tool] | None,
    *,
    add_generation_prompt: bool,
    variables: Mapping[str, Variable] = NO_VARIABLES,
) -> str:
    """The conversation by the model's template; raises InvalidRequest as `TextCodec.render` does."""
    template, form = codec.chat_template, format_of(codec.chat_template)
    render = partial(codec.render, add_generation_prompt=add_generation_prompt, variables=variables)
    if template is None or not template.reads_tools:
        return _render_written(render, messages, tools)
    return render(_with_ids_for(form, messages), tools=None if tools is None else list(tools))


def _render_written(
    render: Callable[[list[Message]], str], messages: Sequence[Message], tools: Sequence[Tool] | None
) -> str:
    written = _written_out(messages, tools)
    try:
        return render(written)
    except InvalidRequest:
        if tools is None or messages[0]["role"] == "system":
            raise
        return render(_without_system_role(written))  # some templates refuse it


def _written_out(messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[Message]:
    """For a template that knows no tools: calls, results and the offer as text."""
    told: list[Message] = []
    for is_result, group in groupby(messages, lambda message: message["role"] == "tool"):
        run = list(group)
        told += [_results(run)] if is_result else map(_calls_written, run)
    if tools is None:
        return told
    asking = _ASKING.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if told and told[0]["role"] == "system":
        return [{**told[0], "content": f"{told[0]['content']}\n\n{asking}"}, *told[1:]]
    return [{"role": "system", "content": asking}, *told]


def _without_system_role(messages: Sequence[Message]) -> list[Message]:
    """The system message at the head of the next."""
    system, first, *others = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]


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
