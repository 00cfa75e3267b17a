"""Renders a conversation by the model's own template. It knows Jinja and messages, not tokens.

Rendering equals transformers' `apply_chat_template`, in the same kind of sandbox, without importing transformers.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from brie_core.errors import InvalidRequest

Message = Mapping[str, Any]
Tool = Mapping[str, Any]
"""A function as OpenAI describes it; templates are given it as it is."""
Variable = bool | int | float | str
"""What else a template may read, such as `enable_thinking`."""
NO_VARIABLES: Mapping[str, Variable] = {}


class ChatTemplate:
    """A compiled chat template with the special tokens it may name."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        self.source = source
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        self._template = environment.from_string(source)
        self._named = {node.name for node in environment.parse(source).find_all(nodes.Name) if node.ctx == "load"}

    @property
    def reads_tools(self) -> bool:
        """Whether the template has a place for tools; one that never names them would drop them without a word."""
        return "tools" in self._named

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, Variable] = NO_VARIABLES,
    ) -> str:
        """The conversation as text; a template that refuses it raises InvalidRequest with the template's own words."""
        own = {"messages": messages, "add_generation_prompt": add_generation_prompt, "tools": tools}
        given = {**variables, **own}
        try:
            return self._template.render(given | self._special_tokens)
        except (TemplateError, TypeError, AttributeError, RecursionError) as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error}", param="messages"
            ) from error


class _GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's text for trainers; for rendering it is transparent."""

    tags = {"generation"}  # noqa: RUF012  # the name and form Jinja asks for

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002  # templates may give it by place
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """As transformers' filter, parameter for parameter: templates name them, and some give them by place."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)
