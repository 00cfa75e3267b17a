"""A model's tokens as llguidance reads them: bytes, and which of them are no text. It knows no grammar."""

from collections.abc import Sequence

from llguidance import LLTokenizer

from brie_core.text.codec import TextCodec


class Vocabulary:
    """A codec's tokens, and one more that no model has: it stands for the end, which is no token of the text."""

    is_tokenizer_wrapper = True
    """By this llguidance knows what it may read."""
    bos_token_id = None

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._no_text = codec.special_ids | codec.stop_ids
        self.eos_token_id = codec.vocab_size
        self.tokens: Sequence[bytes] = [*map(codec.piece, range(codec.vocab_size)), b"<end>"]
        self.special_token_ids = sorted({*self._no_text, self.eos_token_id})
        texts = ((piece, token) for token, piece in enumerate(self.tokens) if token not in self.special_token_ids)
        self._token_of = {piece: token for piece, token in texts if piece}
        self._most_bytes = max(map(len, self._token_of), default=0)

    def __call__(self, text: str | bytes) -> list[int]:
        """The model's own tokens where they spell the text exactly, and no special one does; else the longest first.

        Some vocabularies put a space before a text, and normalise it.
        """
        data = text.encode() if isinstance(text, str) else text
        try:
            ids = self._codec.encode(data.decode())
        except UnicodeDecodeError:
            return self._longest_first(data)
        exact = self._no_text.isdisjoint(ids) and b"".join(self.tokens[token] for token in ids) == data
        return ids if exact else self._longest_first(data)

    def _longest_first(self, data: bytes) -> list[int]:
        """Bytes that no token begins with are left out: such a text cannot be said by this model."""
        ids, begin = [], 0
        while begin < len(data):
            ends = range(min(begin + self._most_bytes, len(data)), begin, -1)
            end = next((end for end in ends if data[begin:end] in self._token_of), None)
            if end is not None:
                ids.append(self._token_of[data[begin:end]])
            begin = begin + 1 if end is None else end
        return ids


def vocabulary_of(vocabulary: Vocabulary) -> LLTokenizer:
    """The vocabulary, prepared; takes a second or two for 50,000 tokens."""
    return LLTokenizer(vocabulary, eos_token=vocabulary.eos_token_id, slices=LLTokenizer.json_slices())  # type: ignore[arg-type]
