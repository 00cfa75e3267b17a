"""One choice of a text completion on the wire: echo, text, logprobs. It knows pieces, not where they come from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from brie_server.api.logprobs import Spell, echoed_logprobs, joined, prompt_logprobs, text_logprobs
from brie_server.engine.base import FinishReason, Logprobs
from brie_server.generation.answer_text import Piece
from brie_server.schema.completions import CompletionChoice

Scored = Sequence[Logprobs | None] | None
"""One for each token of the prompt, where they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextChoice:
    """What is the same for all parts of one choice."""

    index: int
    prompt_ids: Sequence[int]
    echo: str
    """What is sent before the answer."""
    spell: Spell
    tells_logprobs: bool
    tells_prompt_logprobs: bool
    is_mute: bool
    """Whether nothing was to be generated; engines generate one token at least."""

    def heard(self, piece: Piece) -> Piece:
        """What of a piece is told."""
        if not self.is_mute:
            return piece
        return replace(piece, text="", tokens=(), completion_tokens=0, finish=piece.finish and FinishReason.LENGTH)

    def beginning(self, scored: Scored) -> CompletionChoice:
        """The echo."""
        logprobs = echoed_logprobs(self.prompt_ids, scored or (), self.spell) if self.tells_logprobs else None
        return CompletionChoice(index=self.index, text=self.echo, logprobs=logprobs, finish_reason=None)

    def part(self, piece: Piece) -> CompletionChoice:
        """A part of the answer."""
        logprobs = text_logprobs(piece.tokens, self.spell, len(self.echo)) if self.tells_logprobs else None
        return CompletionChoice(index=self.index, text=piece.text, logprobs=logprobs, finish_reason=piece.finish)

    def whole(self, pieces: Sequence[Piece], scored: Scored) -> CompletionChoice:
        """Echo and answer."""
        tokens = tuple(token for piece in pieces for token in piece.tokens)
        choice = self.part(replace(pieces[-1], text="".join(piece.text for piece in pieces), tokens=tokens))
        if self.echo:
            choice = _after(self.beginning(scored), choice)
        if self.tells_prompt_logprobs and scored is not None:
            told = prompt_logprobs(self.prompt_ids, scored, self.spell)
            choice = choice.model_copy(update={"prompt_logprobs": told})
        return choice


def _after(beginning: CompletionChoice, answer: CompletionChoice) -> CompletionChoice:
    logprobs = None
    if beginning.logprobs and answer.logprobs:
        logprobs = joined(beginning.logprobs, answer.logprobs)
    return answer.model_copy(update={"text": beginning.text + answer.text, "logprobs": logprobs})
