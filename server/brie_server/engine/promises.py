"""Whether a prompt, or a text to be embedded, keeps what it promises every engine. It knows numbers only."""

from collections.abc import Sequence

from brie_core.errors import ContextLengthExceeded, InvalidRequest
from brie_server.engine.base import Prompt


def check_prompt(prompt: Prompt, vocab_size: int, context_length: int) -> None:
    """Raises InvalidRequest, or ContextLengthExceeded for one that is too long for the context."""
    num_tokens = len(prompt.token_ids) + prompt.max_tokens
    if not prompt.token_ids or prompt.max_tokens < 1:
        raise InvalidRequest("A prompt needs at least one token, and an answer too.")
    _check_ids(prompt.token_ids, vocab_size, "prompt")
    if num_tokens > context_length:
        raise ContextLengthExceeded(
            f"The context is {context_length} tokens; prompt and answer ask for {num_tokens}: shorten one of them.",
        )
    if not all(0 <= token < vocab_size for token, _ in prompt.sampling.logit_bias):
        raise InvalidRequest(f"The ids of a bias run from 0 to {vocab_size - 1}.", param="logit_bias")
    if not 0 <= prompt.min_tokens <= prompt.max_tokens:
        raise InvalidRequest(
            f"An answer of at most {prompt.max_tokens} tokens cannot have at least {prompt.min_tokens}.",
            param="min_tokens",
        )


def check_text(token_ids: Sequence[int], vocab_size: int, context_length: int) -> None:
    """The same for a text that is to be embedded."""
    if not token_ids:
        raise InvalidRequest("A text needs at least one token.", param="input")
    _check_ids(token_ids, vocab_size, "input")
    if len(token_ids) > context_length:
        raise ContextLengthExceeded(
            f"The context is {context_length} tokens; the text has {len(token_ids)}: shorten it.", param="input"
        )


def _check_ids(token_ids: Sequence[int], vocab_size: int, param: str) -> None:
    """On CUDA an id outside of the embedding would end the process's device for good."""
    if not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        raise InvalidRequest(f"Token ids run from 0 to {vocab_size - 1}.", param=param)
