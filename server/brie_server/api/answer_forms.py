"""What an answer has to be, from the wire to what is compiled. It knows no grammar and no engine."""

from brie_server.generation.form_grammar import ANY_OBJECT, Asked, JsonAnswer
from brie_server.generation.tool_grammar import ToolAnswerForm
from brie_server.generation.tool_prompt import Offer
from brie_server.schema.answer_form import ResponseFormat, TextFormat


def asked_form(content: JsonAnswer | None, offer: Offer | None) -> Asked | None:
    """`content` is what an answer without calls has to be. None where the answer may be any text."""
    if offer is None:
        return content
    if content or offer.must_call or offer.only or offer.strict:
        return ToolAnswerForm(offer, content)
    return None


def content_of_chat(wanted: ResponseFormat | None) -> JsonAnswer | None:
    """As a chat's response_format says."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        return JsonAnswer(ANY_OBJECT, "response_format")
    return JsonAnswer(wanted.json_schema.schema_, "response_format.json_schema.schema")


def content_of_response(wanted: TextFormat | None) -> JsonAnswer | None:
    """As a response's text.format says."""
    if wanted is None or wanted.type == "text":
        return None
    return JsonAnswer(ANY_OBJECT if wanted.schema_ is None else wanted.schema_, "text.format.schema")
