"""A conversation as the model reads it, up to where its answer goes on. It knows templates, no tokens and no HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from brie_core.errors import InvalidRequest
from brie_core.text.chat_template import Message, Variable
from brie_core.text.codec import TextCodec
from brie_server.generation.tool_prompt import Offer, render_chat

_END = "\ufdd2"
"""Put behind the text that is to be continued, to find its place again; a noncharacter, as `spelled.MARK` is."""


class Opening(Enum):
    """Whose turn is open at the end."""

    ANSWER = auto()
    """The assistant's, which has said nothing yet."""
    CONTINUED = auto()
    """The last message's, which is the assistant's and goes on."""
    NONE = auto()
    """Nobody's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What has been said, and how it is shown."""

    messages: Sequence[Message]
    offer: Offer | None = None
    opening: Opening = Opening.ANSWER
    variables: Mapping[str, Variable] = field(default_factory=dict)
    """What the template is told besides; it may read none of them."""

    def is_plain_and_below(self, num_characters: int) -> bool:
        """Whether it is text and nothing else, and so short."""
        if self.offer is not None or any("tool_calls" in message for message in self.messages):
            return False
        return sum(len(message["content"]) for message in self.messages) < num_characters


def render(codec: TextCodec, conversation: Conversation) -> str:
    """Raises InvalidRequest where the template refuses, or drops the message that is to be continued."""
    if conversation.opening is Opening.CONTINUED:
        return _continued(codec, conversation)
    opens = conversation.opening is Opening.ANSWER
    return render_chat(
        codec,
        conversation.messages,
        conversation.offer,
        add_generation_prompt=opens,
        variables=conversation.variables,
    )


def _continued(codec: TextCodec, conversation: Conversation) -> str:
    """Cut behind the last message's text, of which a template that strips messages leaves no white space at its end.

    So does transformers' `continue_final_message`.
    """
    *earlier, last = conversation.messages
    messages = [*earlier, {**last, "content": f"{last['content']}{_END} "}]
    rendered = render_chat(
        codec, messages, conversation.offer, add_generation_prompt=False, variables=conversation.variables
    )
    before, found, after = rendered.rpartition(_END)
    if not found:
        raise InvalidRequest(
            "The model's chat template does not show this message, so it cannot be continued.",
            param="continue_final_message",
        )
    return before if after.startswith(" ") else before.rstrip()
