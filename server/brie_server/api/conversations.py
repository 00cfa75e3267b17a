"""A conversation from the wire to what is rendered, and whose turn it leaves open. It knows no template."""

from collections.abc import Sequence

from brie_core.errors import InvalidRequest
from brie_server.api.tool_messages import template_messages
from brie_server.generation.conversation import Conversation, Opening
from brie_server.generation.tool_prompt import Offer
from brie_server.schema.messages import ChatMessage
from brie_server.schema.template import TemplateFields


def conversation_of(body: TemplateFields, messages: Sequence[ChatMessage], offer: Offer | None = None) -> Conversation:
    """Raises InvalidRequest for a message to go on with that cannot be."""
    variables = {} if body.chat_template_kwargs is None else body.chat_template_kwargs.model_dump(exclude_none=True)
    return Conversation(
        messages=template_messages(messages),
        offer=offer,
        opening=_opening(body, messages[-1], offer),
        variables=variables,
    )


def _opening(body: TemplateFields, last: ChatMessage, offer: Offer | None) -> Opening:
    if not body.continue_final_message:
        return Opening.NONE if body.add_generation_prompt is False else Opening.ANSWER
    if body.add_generation_prompt:
        raise InvalidRequest(
            "A message is either continued or followed by a new one: leave out add_generation_prompt.",
            param="add_generation_prompt",
        )
    if last.role != "assistant" or last.content is None or last.tool_calls:
        raise InvalidRequest(
            "Only a last message of the role 'assistant' that is text can be continued.", param="continue_final_message"
        )
    if offer is not None and (offer.must_call or offer.only):
        raise InvalidRequest(
            "An answer that has to be a call cannot continue a message: leave out tool_choice.", param="tool_choice"
        )
    return Opening.CONTINUED
