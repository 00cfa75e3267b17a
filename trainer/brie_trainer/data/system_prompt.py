"""What a chat template says as the system where a conversation does not. It knows templates by what they render."""

from brie_core.errors import InvalidRequest
from brie_core.text.tokenizer import Tokenizer

_SYSTEM, _USER = "4f1c system", "4f1c user"


def default_system(tokenizer: Tokenizer) -> str | None:
    """The template's own system message, which rows without one are trained with; None if it has none.

    Found where the two renderings, with a system message and without, differ: only what it says may.
    """
    user = {"role": "user", "content": _USER}
    try:
        bare = tokenizer.render([user], add_generation_prompt=True)
        told = tokenizer.render([{"role": "system", "content": _SYSTEM}, user], add_generation_prompt=True)
    except InvalidRequest:  # no template, or none that takes a system message
        return None
    head, found, tail = told.partition(_SYSTEM)
    is_there = found and len(bare) > len(head) + len(tail) and bare.startswith(head) and bare.endswith(tail)
    return bare[len(head) : len(bare) - len(tail)] if is_there else None
