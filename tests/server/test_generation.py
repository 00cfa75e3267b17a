"""Tokens to text: never half a character, never past a stop string, whatever the pieces are."""

import random

import pytest

from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_server.adapters.residency_policy import Resident, evictions
from brie_server.engine.base import FinishReason, Logprobs, Token
from brie_server.generation.answer_text import AnswerText, Piece
from brie_server.generation.detokenizer import Detokenizer
from brie_server.generation.stopping import StopStrings

TEXTS = [
    "Who was Spinoza?",
    "Déjà vu: 1½ ²③",
    "🧀🧀 中文 العربية",
    "  two  spaces\n\n\ttab",
    "👩‍👩‍👧‍👦 family",
    "a" * 40,
    "\ufffd stays",
]


@pytest.fixture(scope="module")
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_are_the_text(text: str, tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer.decode)
    pieces = [detokenizer.add(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + detokenizer.flush() == text


@pytest.mark.parametrize("seed", range(20))
def test_the_pieces_are_what_decoding_all_tokens_gives(seed: int, tokenizer: Tokenizer) -> None:
    tokens = random.Random(seed).choices(range(tokenizer.vocab_size), k=60)
    detokenizer = Detokenizer(tokenizer.decode)
    pieces = [detokenizer.add(token) for token in tokens]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(tokens)


def test_no_piece_holds_half_a_character(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer.decode)
    pieces = [detokenizer.add(token) for token in tokenizer.encode("🧀 中文 👩‍👩‍👧")]
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("seed", range(50))
def test_stop_strings_cut_as_if_the_text_came_whole(seed: int) -> None:
    choose = random.Random(seed)
    text = "".join(choose.choices("ab", k=40))
    stops = ["".join(choose.choices("ab", k=choose.randint(2, 6))) for _ in range(choose.randint(0, 3))]
    found, shown, stopped = StopStrings(stops), "", False
    at = 0
    while at < len(text) and not stopped:
        size = choose.randint(1, 5)
        piece, stopped = found.add(text[at : at + size])
        shown, at = shown + piece, at + size
    first = min(((text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text), default=None)
    assert shown + ("" if stopped else found.flush()) == (text if first is None else text[: first[1]])


def test_text_that_cannot_begin_a_stop_string_is_shown_at_once() -> None:
    stop = StopStrings(["###"])
    assert stop.add("Hello #") == ("Hello ", False)
    assert stop.add("!") == ("#!", False)


def pieces_of(
    tokenizer: Tokenizer, text: str, *, end: FinishReason, stops: tuple[str, ...] = (), min_tokens: int = 0
) -> list[Piece]:
    """An answer of `text`; where it ends by a stop token, that comes after it."""
    ids = tokenizer.encode(text + ("<|im_end|>" if end is FinishReason.STOP else ""))
    answer, pieces = AnswerText(tokenizer.decode, stops, min_tokens), []
    for number, token in enumerate(ids, 1):
        logprobs = Logprobs(-float(number), 1, ())
        pieces.append(answer.add(Token(token, end if number == len(ids) else None, logprobs)))
        if pieces[-1].finish:
            break
    return pieces


@pytest.mark.parametrize("text", [text for text in TEXTS if text != "\ufffd stays"])
@pytest.mark.parametrize("end", [FinishReason.LENGTH, FinishReason.STOP])
def test_each_token_of_the_text_comes_with_its_logprobs_and_place(
    text: str, end: FinishReason, tokenizer: Tokenizer
) -> None:
    pieces = pieces_of(tokenizer, text, end=end)
    told = [token for piece in pieces for token in piece.tokens]
    assert [token.id for token in told] == tokenizer.encode(text)
    assert [token.logprobs.logprob for token in told] == [-float(number) for number in range(1, len(told) + 1)]
    spelled = [tokenizer.piece(token.id) for token in told]
    before = [len(b"".join(spelled[:number]).decode(errors="ignore")) for number in range(len(told))]
    assert [token.offset for token in told] == before


def test_text_that_is_held_back_keeps_its_logprobs_with_it(tokenizer: Tokenizer) -> None:
    text = "one two three four"
    pieces = pieces_of(tokenizer, text, end=FinishReason.LENGTH, stops=(" two three five",))
    shown = 0
    for piece in pieces:
        begin, shown = shown, shown + len(piece.text)
        assert all(begin <= token.offset < shown for token in piece.tokens)
    assert [token.id for piece in pieces for token in piece.tokens] == tokenizer.encode(text)


def test_tokens_of_a_stop_string_are_not_told(tokenizer: Tokenizer) -> None:
    pieces = pieces_of(tokenizer, "one two three four", end=FinishReason.LENGTH, stops=(" two three",))
    assert "".join(piece.text for piece in pieces) == "one"
    assert [token.id for piece in pieces for token in piece.tokens] == tokenizer.encode("one")
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == (FinishReason.STOP, 3)


def test_a_token_that_completes_the_answer_is_part_of_its_text(tokenizer: Tokenizer) -> None:
    answer, ids = AnswerText(tokenizer.decode, ("x",)), tokenizer.encode('{"a": 1}')
    pieces = [answer.add(Token(token, None, Logprobs(-1.0, 1, ()))) for token in ids[:-1]]
    pieces.append(answer.add(Token(ids[-1], FinishReason.STOP, Logprobs(-1.0, 1, ()), completes=True)))
    assert ("".join(piece.text for piece in pieces), pieces[-1].finish) == ('{"a": 1}', FinishReason.STOP)
    assert [token.id for piece in pieces for token in piece.tokens] == ids


def test_stop_strings_count_after_min_tokens(tokenizer: Tokenizer) -> None:
    text = "one two three one two three"
    pieces = pieces_of(tokenizer, text, end=FinishReason.LENGTH, stops=(" two",), min_tokens=3)
    assert "".join(piece.text for piece in pieces) == "one two three one"


def test_the_least_recently_used_adapter_goes_first_and_one_in_use_never() -> None:
    residents = [Resident("old", 10, 0, 1), Resident("busy", 10, 1, 0), Resident("new", 10, 0, 2)]
    assert evictions(residents, 30) == []
    assert evictions(residents, 20) == ["old"]
    assert evictions(residents, 0) == ["old", "new"]


def test_pinned_adapters_are_never_dropped() -> None:
    residents = [Resident("pinned", 10, 0, 0, pinned=True), Resident("old", 10, 0, 1), Resident("new", 10, 0, 2)]
    assert evictions(residents, 20) == ["old"]
    assert evictions(residents, 0) == ["old", "new"]
