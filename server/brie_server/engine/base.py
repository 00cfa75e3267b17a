"""The engine contract. It knows tokens and adapter digests, and nothing of text, HTTP or names."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol


class FinishReason(StrEnum):
    """Why an answer ended, in OpenAI's words."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    """Said of an answer by whoever reads its text, never by an engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen: the fields change the logits in this order, which is vLLM's.

    logit_bias, repetition_penalty, frequency_penalty and presence_penalty, temperature, min_p, top_k, top_p. Each of
    the last three cuts what the ones before it left; the most probable token always stays.
    """

    logit_bias: tuple[tuple[int, float], ...] = ()
    """What is added to the logits of these ids, each named once."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative logits of all tokens in prompt and answer; above 0."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it stands in the answer."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of all tokens in the answer."""
    temperature: float = 1.0
    """0 takes the most probable token; otherwise logits are divided by this."""
    min_p: float = 0.0
    """Keep the tokens that are at least this share as probable as the most probable one."""
    top_k: int = 0
    """Keep this many of the most probable tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities reach this share of all that are left."""
    seed: int | None = None
    """The same seed, prompt and adapter draw with the same chance, whatever runs beside them.

    Alone on the engine the answer is the same to the bit. Beside others sums are taken in another order, and a chance
    that falls on the border of two tokens may find the other: measured, in 3 of 500 answers.
    """

    @property
    def penalizes(self) -> bool:
        """Whether the tokens so far change the logits of the next."""
        return self.repetition_penalty != 1 or self.frequency_penalty != 0 or self.presence_penalty != 0


class Constraint(Protocol):
    """One answer on its way to the form it must have; it goes along token by token, on the engine's thread."""

    @property
    def may_end(self) -> bool:
        """Whether the answer is complete as it stands."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether it is complete and nothing may follow."""
        ...

    def allowed(self) -> bytes:
        """A bit for each token that may be next in the text, that of id 0 the lowest of the first byte.

        Ids past its end may not. That the answer may end is no bit here: it is `may_end`, and the request's stop ids.
        """
        ...

    def accept(self, token: int) -> None:
        """Go on to what follows this token of the text."""
        ...


class Form(Protocol):
    """What answers must be, compiled; any number of them may be on their way to it. It does not change."""

    def begin(self) -> Constraint:
        """An answer that has no token yet."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One request to an engine."""

    token_ids: tuple[int, ...]
    """At least one token."""
    max_tokens: int
    """At least 1; token_ids and max_tokens together fit the context."""
    stop_ids: frozenset[int]
    """Sampling one of these ends the answer; it is still delivered."""
    sampling: Sampling
    adapter: str | None = None
    """Digest of a loaded adapter; None is the base model."""
    min_tokens: int = 0
    """Before so many tokens, none of stop_ids is sampled; at most max_tokens."""
    logprobs: int | None = None
    """How many alternatives each generated token's `Logprobs` names; 0 names none, None asks for no `Logprobs`."""
    prompt_logprobs: int | None = None
    """The same for each token of the prompt."""
    form: Form | None = None
    """What the answer must be. No stop token is sampled where it is not complete, and it ends where nothing may follow.

    Where that leaves no token at all, the request fails.
    """


@dataclass(frozen=True, slots=True)
class Logprobs:
    """What the model itself thought of one token, as OpenAI and vLLM tell it by default.

    Natural logarithms of the raw distribution, before anything that `Sampling` or `min_tokens` does to it.
    """

    logprob: float
    rank: int
    """1 for the most probable token."""
    top: tuple[tuple[int, float], ...]
    """The most probable ids with their logarithms, best first, as many as were asked for."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token; the last one of an answer carries the reason it ended."""

    id: int
    finish: FinishReason | None = None
    logprobs: Logprobs | None = None
    prompt_logprobs: tuple[Logprobs | None, ...] | None = None
    """With the first token of an answer: one for each token of the prompt, None for its first."""
    completes: bool = False
    """The answer stops with this token because its form lets nothing follow; no stop token was needed."""

    @property
    def is_text(self) -> bool:
        """Whether it is part of the answer's text: a stop token is not."""
        return self.completes or self.finish is not FinishReason.STOP


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine runs on."""

    engine: str
    device: str
    dtype: str
    context_length: int
    max_batch: int
    """Sequences that can generate at once."""
    max_requests: int
    """Those and the ones that may wait; a further one is Overloaded."""
    embedding_size: int | None = None
    """How many numbers `embed` gives; None for an engine that has none to give."""


Embedding = tuple[float, ...]
"""What a model makes of a text: the mean of its last hidden states, behind its final norm, over all the tokens."""


class Engine(Protocol):
    """Answers prompts; closing the iterator that `generate` returned, or cancelling `embed`, aborts the request."""

    def info(self) -> EngineInfo:
        """What this engine runs on; constant."""
        ...

    def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        """Tokens as they are sampled; nothing happens before the first is asked for.

        Raises InvalidRequest for a prompt that breaks its promises, NotFound for an adapter that is not loaded,
        Overloaded when the queue is full, EngineFailure when a step fails, NotReady once the engine is closed.
        """
        ...

    async def embed(self, token_ids: tuple[int, ...], adapter: str | None = None) -> Embedding:
        """`embedding_size` numbers, of whatever length as a vector, computed beside the answers.

        Raises InvalidRequest for no tokens, or where there are no embeddings (`embeddings_unsupported`);
        ContextLengthExceeded for more tokens than the context; and the rest as `generate` does.
        """
        ...

    async def load_adapter(self, digest: str, folder: Path) -> int:
        """Make the adapter in `folder` usable as `digest`; returns its bytes on the device. Loading twice is one load.

        Raises InvalidAdapter; streams that run meanwhile are not disturbed.
        """
        ...

    async def unload_adapter(self, digest: str) -> None:
        """Free the adapter; an unknown one is no error.

        The caller sees to it that no request uses it: one that does fails, and never goes on as the base model.
        """
        ...

    async def aclose(self) -> None:
        """Fail what runs with NotReady and free the device; may be called twice."""
        ...
