"""What a request may say about how its conversation is shown to the model. It knows no template.

A template in the request would be a stranger's program, so there is none; of a template's variables a request
sets those that are listed here, whether or not the model's template reads them.
"""

from typing import Annotated

from pydantic import Field, StringConstraints

from brie_server.schema.common import Body, Flag, Refused, StrictBody

_Word = Annotated[str, StringConstraints(max_length=64)]


class TemplateVariables(StrictBody):
    """Those that templates of today's models read."""

    enable_thinking: Flag | None = None
    thinking: Flag | None = None
    preserve_thinking: Flag | None = None
    tools_in_user_message: Flag | None = None
    reasoning_effort: _Word | None = None
    date_string: _Word | None = None


class TemplateFields(Body):
    """VLLM's names."""

    add_generation_prompt: Annotated[Flag | None, Field(description="Default: not continue_final_message.")] = None
    continue_final_message: Flag | None = None
    chat_template_kwargs: TemplateVariables | None = None
    chat_template: Refused = None
    documents: Refused = None
