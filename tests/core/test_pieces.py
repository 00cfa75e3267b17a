"""A token's bytes: joined, they are the text, whatever the vocabulary's spelling."""

import pytest

from brie_core.text.pieces import spelling_of
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel


@pytest.fixture(scope="module")
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.mark.parametrize(
    "text", ["Who was Spinoza?", "Déjà vu: 1½", "🧀 中文 العربية", "\x00\x7f\xa0\xad\xff", "  a\n\n\tb"]
)
def test_the_pieces_joined_are_the_text(text: str, tokenizer: Tokenizer) -> None:
    assert b"".join(tokenizer.piece(token) for token in tokenizer.encode(text)).decode() == text


def test_a_special_token_is_spelled_by_its_name(tokenizer: Tokenizer) -> None:
    assert [tokenizer.piece(token) for token in tokenizer.encode("<|im_start|>")] == [b"<|im_start|>"]


def test_an_embedding_without_a_token_is_no_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.piece(10**6) == b""


@pytest.mark.parametrize(
    ("decoder", "spelled", "bytes_"),
    [
        ({"type": "ByteLevel"}, "Ġé", b" \xe9"),
        ({"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}]}, "▁été", " été".encode()),
        ({"type": "Sequence", "decoders": [{"type": "Replace"}, {"type": "ByteFallback"}]}, "<0xE2>", b"\xe2"),
        ({"type": "Metaspace"}, "▁a▁b", b" a b"),
        (None, "plain▁", "plain▁".encode()),
    ],
)
def test_the_decoder_says_how_entries_are_spelled(decoder: dict[str, object], spelled: str, bytes_: bytes) -> None:
    assert spelling_of(decoder)(spelled) == bytes_
