"""Text to tokens and back by a GGUF file's vocabulary and chat template. It knows no weights and no request."""

import ctypes
import unicodedata
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property

import llama_cpp
from jinja2 import TemplateError

from brie_core.errors import BadConfiguration, InvalidRequest
from brie_core.text.chat_template import NO_VARIABLES, ChatTemplate, Message, Tool, Variable
from brie_core.text.spelled import Spellings
from brie_core.weights.gguf_model import GgufModel
from brie_server.engine.llamacpp.library import open_model

NORMALIZER = "brie.tokenizer.normalizer"
"""What Brie's exports apply to a text beforehand, because llama.cpp does not."""
_MOST_PIECE = 64


class GgufCodec:
    """See `TextCodec`. It has the file's vocabulary for itself, so that it outlives the engine and needs no lock."""

    def __init__(self, model: GgufModel) -> None:
        """Raises BadConfiguration for a file that llama.cpp does not read."""
        handle = open_model(model.file, vocab_only=True)
        weakref.finalize(self, llama_cpp.llama_model_free, handle).atexit = False
        self._vocab = llama_cpp.llama_model_get_vocab(handle)
        self._normalizer = model.header.fields.get(NORMALIZER)
        self._pieces: dict[int, bytes] = {}
        self.vocab_size = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        ends = (token for token in range(self.vocab_size) if llama_cpp.llama_vocab_is_eog(self._vocab, token))
        self._stop_ids = frozenset(ends)
        source = llama_cpp.llama_model_chat_template(handle, None)
        self._template = self._compile(source.decode(), model) if source else None

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Every id that stands for no text: decoding drops it."""
        return frozenset(token for token in range(self.vocab_size) if not self._piece(token))

    @property
    def stop_ids(self) -> frozenset[int]:
        """Every id at which llama.cpp ends an answer."""
        return self._stop_ids

    @property
    def chat_template(self) -> ChatTemplate | None:
        """The file's."""
        return self._template

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """See `TextCodec`."""
        if add_special_tokens:
            return self._tokenize(text, adds_special=True, reads_special=True)
        runs = self._spellings.runs(text)
        return [token for run in runs for token in self._tokenize(run.text, reads_special=not run.is_plain)]

    @cached_property
    def _spellings(self) -> Spellings:
        return Spellings(self.piece(token).decode(errors="replace") for token in self.special_ids)

    def _tokenize(self, text: str, *, adds_special: bool = False, reads_special: bool) -> list[int]:
        data = (unicodedata.normalize("NFC", text) if self._normalizer == "NFC" else text).encode()
        room = len(data) + 8
        while True:
            tokens = (llama_cpp.llama_token * room)()
            count = llama_cpp.llama_tokenize(
                self._vocab,
                data,
                len(data),
                tokens,
                room,
                adds_special,
                reads_special,
            )
            if count >= 0:
                return list(tokens[:count])
            room = -count

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; bytes that are no whole character come out as U+FFFD."""
        return b"".join([self._piece(token) for token in ids]).decode(errors="replace")

    def piece(self, token: int) -> bytes:
        """A token's own bytes; a special token's are its name."""
        return self._ask_for_piece(token, special=True)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, Variable] = NO_VARIABLES,
    ) -> str:
        """See `TextCodec`."""
        if self._template is None:
            raise InvalidRequest(
                "This file has no chat template, so it cannot hold a conversation: use /v1/completions.",
                param="messages",
            )
        marked = self._spellings.marked
        return self._template.render(
            marked(messages),
            add_generation_prompt=add_generation_prompt,
            tools=marked(tools),
            variables=marked(variables),
        )

    def _piece(self, token: int) -> bytes:
        """A token's bytes; llama.cpp is asked for each token once."""
        if (known := self._pieces.get(token)) is not None:
            return known
        return self._pieces.setdefault(token, self._ask_for_piece(token, special=False))

    def _ask_for_piece(self, token: int, *, special: bool) -> bytes:
        room = _MOST_PIECE
        while True:
            buffer = ctypes.create_string_buffer(room)
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, room, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            room = -length  # a hundred dashes are one token in some vocabularies

    def _compile(self, source: str, model: GgufModel) -> ChatTemplate:
        special = {f"{role}_token": text for role in ("bos", "eos", "pad") if (text := self._special(role))}
        try:
            return ChatTemplate(source, special)
        except TemplateError as error:
            raise BadConfiguration(f"The chat template in {model.file} cannot be used: {error}") from error

    def _special(self, role: str) -> str | None:
        token = getattr(llama_cpp, f"llama_vocab_{role}")(self._vocab)
        return llama_cpp.llama_vocab_get_text(self._vocab, token).decode() if token >= 0 else None
