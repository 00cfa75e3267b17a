"""One answer's tokens to pieces of certain text, with the logprobs of the tokens in each. It knows no engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from brie_server.engine.base import FinishReason, Logprobs, Token
from brie_server.generation.detokenizer import Detokenizer
from brie_server.generation.stopping import StopStrings
from brie_server.generation.tool_calls import CallEvent, Event


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token of the answer with its logprobs."""

    id: int
    offset: int
    """Where its text begins in the answer, in characters."""
    logprobs: Logprobs


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that became certain, and the count of tokens generated so far; the last piece says why the answer ended."""

    text: str
    completion_tokens: int
    finish: FinishReason | None = None
    tokens: tuple[ScoredToken, ...] = ()
    """Those whose text begins here or, having none, stands before it; only where logprobs were asked for.

    A stop token is not one of them: like a stop string, it is not part of the text.
    """
    prompt_logprobs: tuple[Logprobs | None, ...] | None = None
    """With the first piece."""
    calls: tuple[CallEvent, ...] = ()
    """What was read of tool calls, where an answer may hold them; it is no part of the text."""
    events: tuple[Event, ...] = ()
    """The same with the text, in the order in which they were read; empty where an answer may hold no calls."""


class AnswerText:
    """Takes tokens one by one. Stop strings count from the first token after `min_tokens`."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stops: Sequence[str], min_tokens: int = 0) -> None:
        self._detokenizer, self._stops, self._min_tokens = Detokenizer(decode), StopStrings(stops), min_tokens
        self._count = self._num_read = self._num_shown = 0
        self._waiting: list[ScoredToken] = []
        """The tokens whose text is held back."""

    def add(self, token: Token) -> Piece:
        """The text that becomes certain with this token; nothing may follow a piece with a reason to finish."""
        self._count += 1
        if token.logprobs is not None and token.is_text:
            self._waiting.append(ScoredToken(token.id, self._num_read, token.logprobs))
        shown, finish = self._certain(self._text_of(token), token.finish)
        self._num_shown += len(shown)
        tokens = self._released(everything=finish is FinishReason.LENGTH)
        return Piece(shown, self._count, finish, tokens, token.prompt_logprobs)

    def _certain(self, text: str, finish: FinishReason | None) -> tuple[str, FinishReason | None]:
        self._num_read += len(text)
        shown, stopped = (text, False) if self._count <= self._min_tokens else self._stops.add(text)
        if stopped:
            return shown, FinishReason.STOP
        return shown + self._stops.flush() if finish else shown, finish

    def _text_of(self, token: Token) -> str:
        """A stop token is not part of the answer; decoding drops it as it is special or as it is the last."""
        if not token.is_text:
            return self._detokenizer.flush()
        text = self._detokenizer.add(token.id)
        return text + self._detokenizer.flush() if token.finish else text

    def _released(self, *, everything: bool) -> tuple[ScoredToken, ...]:
        taken = [token for token in self._waiting if everything or token.offset < self._num_shown]
        self._waiting = self._waiting[len(taken) :]
        return tuple(taken)
