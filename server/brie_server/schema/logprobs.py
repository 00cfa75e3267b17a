"""Logprobs on the wire: OpenAI's two shapes for answers, vLLM's for prompts."""

from typing import Annotated

from pydantic import Field

from brie_core.wire import Wire


class TopLogprob(Wire):
    """A token that might have stood there."""

    token: str
    """U+FFFD for bytes that are no whole character."""
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob):
    """A token of the answer, and what else might have stood there."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(Wire):
    """Those of a chat answer, or of a chunk's part of it."""

    content: list[ChatLogprob]
    refusal: None


class TextLogprobs(Wire):
    """Those of a text completion, or of a chunk's part of it; the four lists have the same length."""

    tokens: list[str]
    """`bytes:` and the bytes in hexadecimal for one that is no whole character."""
    token_logprobs: list[float | None]
    """null for the first token of an echoed prompt, as in the next list."""
    top_logprobs: list[dict[str, float] | None]
    """Each has the token itself, among the most probable ones or beside them."""
    text_offset: list[int]
    """Where each token's text begins in the choice's text, in characters."""


class PromptLogprob(Wire):
    """A token of the prompt, or one that might have stood there."""

    logprob: float
    rank: int
    """1 for the most probable."""
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]
"""For each token of the prompt, by id: itself, and the most probable ones; null for the first."""
OfPrompt = Annotated[PromptLogprobs | None, Field(exclude_if=lambda told: told is None)]
"""Sent only where it was asked for."""
