"""Short ways to ask for a form and to ask a form what it lets through. It makes no assertions."""

import asyncio
from collections.abc import Mapping
from typing import Any

from brie_core.text.tokenizer import Tokenizer
from brie_server.engine.base import Form
from brie_server.generation.form_grammar import JsonAnswer
from brie_server.generation.forms import Forms


def form_of(forms: Forms, schema: Mapping[str, Any]) -> Form:
    return asyncio.run(forms.compiled(JsonAnswer(schema, "here")))


def is_allowed(bits: bytes, token: int) -> bool:
    return token >> 3 < len(bits) and bool(bits[token >> 3] >> (token & 7) & 1)


def lets_through(form: Form, tokenizer: Tokenizer, text: str) -> bool:
    """Whether the answer may be this text, and end there."""
    constraint = form.begin()
    for token in tokenizer.encode(text):
        if not is_allowed(constraint.allowed(), token):
            return False
        constraint.accept(token)
    return constraint.may_end
