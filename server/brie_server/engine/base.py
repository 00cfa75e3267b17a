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


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 1.0
    """0 takes the most probable token; otherwise logits are divided by this."""
    top_p: float = 1.0
    """Keep the smallest set of tokens whose probabilities reach this sum."""
    seed: int | None = None
    """The same seed, prompt and adapter give the same answer, whatever runs beside it."""


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


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token; the last one of an answer carries the reason it ended."""

    id: int
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine runs on."""

    engine: str
    device: str
    dtype: str
    context_length: int
    max_batch: int
    """Sequences that can generate at once."""


class Engine(Protocol):
    """Answers prompts; closing the iterator that `generate` returned aborts the request."""

    def info(self) -> EngineInfo:
        """What this engine runs on; constant."""
        ...

    def generate(self, prompt: Prompt) -> AsyncGenerator[Token, None]:
        """Tokens as they are sampled; nothing happens before the first is asked for.

        Raises InvalidRequest for a prompt that breaks its promises, NotFound for an adapter that is not loaded,
        Overloaded when the queue is full, EngineFailure when a step fails, NotReady once the engine is closed.
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
