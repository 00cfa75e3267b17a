"""What turns a model's text into tokens and back, whatever file that knowledge lies in. It knows no implementation."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from brie_core.text.chat_template import NO_VARIABLES, ChatTemplate, Message, Tool, Variable


class TextCodec(Protocol):
    """Encode, decode, and render conversations as the model was taught them; may be called from several threads."""

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to one below this."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Every id that stands for no text: decoding drops it."""
        ...

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id that ends an answer."""
        ...

    @property
    def chat_template(self) -> ChatTemplate | None:
        """How the model was taught to hold a conversation; None if it was not."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids; special tokens that the text spells out are recognised, except where `render` marked them."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; bytes that are no whole character come out as U+FFFD."""
        ...

    def piece(self, token: int) -> bytes:
        """A token's own bytes, which need not be whole characters; a special token's are its name."""
        ...

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, Variable] = NO_VARIABLES,
    ) -> str:
        """A conversation as text; raises InvalidRequest if the model has no template or the template refuses.

        What spells a special token in a message is marked as text (`spelled`), for `encode` to read it so.
        """
        ...
