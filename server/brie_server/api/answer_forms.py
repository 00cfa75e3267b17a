"""What an answer has to be, from the wire to what is compiled. It knows no grammar and no engine."""

from brie_server.generation.form_grammar import ANY_OBJECT, Asked, JsonAnswer
from brie_server.generation.tool_grammar import ToolAnswerForm
from brie_server.generation.tool_prompt import Offer
from brie_server.schema.answer_form import ResponseFormat


def asked_form(wanted: ResponseFormat | None, offer: Offer | None) -> Asked | None:
    """None where the answer may be any text."""
    content = _content(wanted)
    if offer is None:
        return content
    if content or offer.must_call or offer.only or offer.strict:
        return ToolAnswerForm(offer, content)
    return None


def _content(wanted: ResponseFormat | None) -> JsonAnswer | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None or wanted.json_schema.schema_ is None:
        return JsonAnswer(ANY_OBJECT, "response_format")
    return JsonAnswer(wanted.json_schema.schema_, "response_format.json_schema.schema")
