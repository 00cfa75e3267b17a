"""The engine's logprobs as the wire has them. It knows how tokens are spelled, not how they were chosen."""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator, Sequence

from brie_server.engine.base import Logprobs
from brie_server.generation.answer_text import ScoredToken
from brie_server.schema.logprobs import (
    ChatLogprob,
    ChatLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TextLogprobs,
    TopLogprob,
)

Spell = Callable[[int], bytes]


def chat_logprobs(tokens: Iterable[ScoredToken], spell: Spell) -> ChatLogprobs:
    """OpenAI's shape for chats."""
    return ChatLogprobs(content=[_chat_logprob(token, spell) for token in tokens], refusal=None)


def text_logprobs(tokens: Sequence[ScoredToken], spell: Spell, start: int = 0) -> TextLogprobs:
    """OpenAI's shape for texts; the answer begins at character `start` of the text that is sent."""
    return TextLogprobs(
        tokens=[_legacy_name(spell(token.id)) for token in tokens],
        token_logprobs=[token.logprobs.logprob for token in tokens],
        top_logprobs=[_legacy_tops(token.id, token.logprobs, spell) for token in tokens],
        text_offset=[start + token.offset for token in tokens],
    )


def echoed_logprobs(prompt_ids: Sequence[int], logprobs: Sequence[Logprobs | None], spell: Spell) -> TextLogprobs:
    """The same shape for a prompt that is sent back before its answer."""
    return TextLogprobs(
        tokens=[_legacy_name(spell(token)) for token in prompt_ids],
        token_logprobs=[each.logprob if each else None for each in logprobs],
        top_logprobs=[
            _legacy_tops(token, each, spell) if each else None for token, each in zip(prompt_ids, logprobs, strict=True)
        ],
        text_offset=list(_offsets(prompt_ids, spell)),
    )


def joined(first: TextLogprobs, second: TextLogprobs) -> TextLogprobs:
    """Those of two stretches of one text."""
    return TextLogprobs(
        tokens=first.tokens + second.tokens,
        token_logprobs=first.token_logprobs + second.token_logprobs,
        top_logprobs=first.top_logprobs + second.top_logprobs,
        text_offset=first.text_offset + second.text_offset,
    )


def prompt_logprobs(prompt_ids: Sequence[int], logprobs: Sequence[Logprobs | None], spell: Spell) -> PromptLogprobs:
    """vLLM's shape: the token itself comes first, then the most probable ones."""
    return [
        None if each is None else _prompt_logprob(token, each, spell)
        for token, each in zip(prompt_ids, logprobs, strict=True)
    ]


def _chat_logprob(token: ScoredToken, spell: Spell) -> ChatLogprob:
    own = _top_logprob(token.id, token.logprobs.logprob, spell)
    tops = [_top_logprob(other, logprob, spell) for other, logprob in token.logprobs.top]
    return ChatLogprob(token=own.token, logprob=own.logprob, bytes=own.bytes, top_logprobs=tops)


def _top_logprob(token: int, logprob: float, spell: Spell) -> TopLogprob:
    spelled = spell(token)
    return TopLogprob(token=spelled.decode(errors="replace"), logprob=logprob, bytes=list(spelled))


def _offsets(prompt_ids: Iterable[int], spell: Spell) -> Iterator[int]:
    """A token that begins within a character begins where that character does."""
    decoder, offset = getincrementaldecoder("utf-8")(errors="replace"), 0
    for token in prompt_ids:
        yield offset
        offset += len(decoder.decode(spell(token)))


def _legacy_tops(token: int, logprobs: Logprobs, spell: Spell) -> dict[str, float]:
    ranked = dict(logprobs.top) | {token: logprobs.logprob}
    return {_legacy_name(spell(other)): logprob for other, logprob in ranked.items()}


def _legacy_name(spelled: bytes) -> str:
    """As the keys of a JSON object, tokens of parts of characters must differ."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)


def _prompt_logprob(token: int, logprobs: Logprobs, spell: Spell) -> dict[int, PromptLogprob]:
    ranked = [(token, logprobs.logprob, logprobs.rank)]
    ranked += [(other, logprob, rank) for rank, (other, logprob) in enumerate(logprobs.top, 1) if other != token]
    return {
        other: PromptLogprob(logprob=logprob, rank=rank, decoded_token=spell(other).decode(errors="replace"))
        for other, logprob, rank in ranked
    }
