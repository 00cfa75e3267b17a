"""What an answer has to be, as a grammar that llguidance reads. It knows schemas, not how answers are held to them.

White space in the JSON is a single space, or a line's end and what indents the next: a small model that may write more
of it often writes nothing else.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol

from brie_core.errors import InvalidRequest
from brie_core.text.codec import TextCodec
from brie_server.generation.schema_limits import SchemaRefused, checked

SPACE = r"\x20|\n\x20{0,32}"
_READING = {"whitespace_pattern": SPACE, "lenient": False, "coerce_one_of": False}
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class Asked(Protocol):
    """What an answer has to be."""

    @property
    def param(self) -> str:
        """The field that says so."""
        ...

    def grammar(self, codec: TextCodec) -> str:
        """In Lark's syntax, as llguidance has it; raises InvalidRequest."""
        ...


class JsonAnswer:
    """JSON that a schema is true of."""

    def __init__(self, schema: Mapping[str, Any], param: str) -> None:
        self.schema, self.param = schema, param

    def grammar(self, _codec: TextCodec) -> str:
        """Raises InvalidRequest for a schema that is too large."""
        return f"start: %json {schema_text(self.schema, self.param)}"


def schema_text(schema: Mapping[str, Any], param: str) -> str:
    """A schema as it stands in a grammar; how its JSON may look is not the client's to say."""
    try:
        return checked({**schema, "x-guidance": _READING})
    except SchemaRefused as refusal:
        raise InvalidRequest(f"The schema cannot be used: {refusal}.", param=param) from refusal
    except RecursionError as error:
        raise InvalidRequest("The schema cannot be used: it is nested too deeply.", param=param) from error


def quoted(text: str) -> str:
    """A text that stands in the answer as it is."""
    return json.dumps(text, ensure_ascii=False)
