"""A model's tokenizer with its chat template and stop tokens, read from a Hugging Face folder. It knows no weights.

Only the Rust library `tokenizers` is used: the API and the converter start without transformers and torch.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding
from tokenizers import Tokenizer as FastTokenizer

from brie_core.errors import BadConfiguration, InvalidRequest
from brie_core.text.chat_template import NO_VARIABLES, ChatTemplate, Message, Tool, Variable
from brie_core.text.pieces import spelling_of
from brie_core.text.spelled import ANCHOR, Run, Spellings
from brie_core.weights.base_model import read_json

_LEAD = "\n"
"""A text of its own: vocabularies that put a space before a text have no token that begins with it and goes on."""


class Tokenizer:
    """Encode, decode, and render conversations as the model was taught them."""

    def __init__(self, folder: Path, chat_template: str | None = None) -> None:
        """`chat_template` is one to take instead of the folder's own. Raises BadConfiguration."""
        try:
            self._fast = FastTokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception for a missing or broken file
            raise BadConfiguration(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
        self._config = _optional_json(folder / "tokenizer_config.json")
        self.chat_template: ChatTemplate | None = _chat_template(folder, self._config, chat_template)
        self.stop_ids = self._stop_ids(folder)
        self.digest = hashlib.sha256(self._fast.to_str().encode()).hexdigest()
        self._added = {token: added.content for token, added in self._fast.get_added_tokens_decoder().items()}

    @property
    def vocab_size(self) -> int:
        """Ids run from 0 to one below this."""
        return self._fast.get_vocab_size()

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Every id that stands for no text: decoding drops it."""
        return frozenset(token for token, added in self._fast.get_added_tokens_decoder().items() if added.special)

    @cached_property
    def eos_id(self) -> int | None:
        """The token that ends a text: the one the tokenizer names, else the first of those that end an answer."""
        eos = _token_text(self._config.get("eos_token"))
        named = None if eos is None else self._fast.token_to_id(eos)
        return min(self.stop_ids, default=None) if named is None else named

    @property
    def template_digest(self) -> str | None:
        """sha256 of the chat template's source; None for a model without one."""
        return hashlib.sha256(self.chat_template.source.encode()).hexdigest() if self.chat_template else None

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Token ids; a rendered conversation carries its special tokens in the text, and marks what only spells one."""
        if add_special_tokens:
            return list(self._fast.encode(text).ids)
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and for each the characters of `text` it covers, as (begin, end)."""
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for run in self._spellings.runs(text):
            run_ids, run_offsets = self._encode_run(run)
            ids += run_ids
            offsets += [(run.places[begin], run.places[end]) for begin, end in run_offsets]
        return ids, offsets

    def encode_answer(self, before: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of `before`, and those that a model which has read them would write for `answer`: none spans both."""
        prompt, whole = self.encode(before), self.encode(before + answer)
        if whole[: len(prompt)] == prompt:
            return prompt, whole[len(prompt) :]
        return prompt, self._encode_in_the_midst(answer)

    def _encode_in_the_midst(self, text: str) -> list[int]:
        """As behind other text: some vocabularies put a space before a text, or behind a special token."""
        first, *others = self._spellings.runs(text)
        begun = self._plain if first.is_plain else self._anchored
        lead = begun.encode(ANCHOR + _LEAD, add_special_tokens=False).ids
        ids: list[int] = begun.encode(ANCHOR + _LEAD + first.text, add_special_tokens=False).ids
        if ids[: len(lead)] != lead:  # the text begins with what the lead ends with, and they merge
            lead = lead[:1]
            ids = begun.encode(ANCHOR + first.text, add_special_tokens=False).ids
        return ids[len(lead) :] + [token for run in others for token in self._encode_run(run)[0]]

    def _encode_run(self, run: Run) -> tuple[list[int], list[tuple[int, int]]]:
        """The beginning of a text is not like what follows a special token: some vocabularies put a space before it."""
        if not run.is_plain:
            found: Encoding = self._fast.encode(run.text, add_special_tokens=False)
            return found.ids, found.offsets
        anchor = ANCHOR if run.places[0] else ""
        found = self._plain.encode(anchor + run.text, add_special_tokens=False)
        skipped, foreign = len(anchor), self._plain.token_to_id(ANCHOR)
        kept = [(token, at) for token, at in zip(found.ids, found.offsets, strict=True) if token != foreign]
        return [token for token, _ in kept], [(begin - skipped, end - skipped) for _, (begin, end) in kept]

    @cached_property
    def _spellings(self) -> Spellings:
        return Spellings(added.content for added in self._fast.get_added_tokens_decoder().values() if added.special)

    @cached_property
    def _plain(self) -> FastTokenizer:
        """The same, to which special tokens are text, and which has one token to begin after."""
        plain = self._with_anchor()
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _anchored(self) -> FastTokenizer:
        return self._with_anchor()

    def _with_anchor(self) -> FastTokenizer:
        copy = FastTokenizer.from_str(self._fast.to_str())
        copy.add_tokens([AddedToken(ANCHOR, special=False, normalized=False)])
        return copy

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Text; bytes that are no whole character come out as U+FFFD."""
        text: str = self._fast.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def piece(self, token: int) -> bytes:
        """A token's own bytes, which need not be whole characters; those of an added token are its name.

        A model may have more embeddings than tokens: one without a name is no bytes.
        """
        if (added := self._added.get(token)) is not None:
            return added.encode()
        spelled = self._fast.id_to_token(token)
        return b"" if spelled is None else self._spelling(spelled)

    @cached_property
    def _spelling(self) -> Callable[[str], bytes]:
        return spelling_of(json.loads(self._fast.to_str()).get("decoder"))

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Tool] | None = None,
        variables: Mapping[str, Variable] = NO_VARIABLES,
    ) -> str:
        """See `TextCodec`."""
        if self.chat_template is None:
            raise InvalidRequest(
                "This model has no chat template, so it cannot hold a conversation: use /v1/completions.",
                param="messages",
            )
        marked = self._spellings.marked
        return self.chat_template.render(
            marked(messages),
            add_generation_prompt=add_generation_prompt,
            tools=marked(tools),
            variables=marked(variables),
        )

    def _stop_ids(self, folder: Path) -> frozenset[int]:
        """Every id that ends an answer: generation_config and config may list several, tokenizer_config names one."""
        ids: set[int] = set()
        for name in ("generation_config.json", "config.json"):
            value = _optional_json(folder / name).get("eos_token_id")
            ids.update(value if isinstance(value, list) else [] if value is None else [value])
        eos = _token_text(self._config.get("eos_token"))
        named = None if eos is None else self._fast.token_to_id(eos)
        return frozenset(ids if named is None else ids | {named})


def _chat_template(folder: Path, config: Mapping[str, Any], given: str | None) -> ChatTemplate | None:
    file = folder / "chat_template.jinja"
    source = given or (file.read_text() if file.is_file() else config.get("chat_template"))
    if isinstance(source, list):
        source = next((entry["template"] for entry in source if entry["name"] == "default"), None)
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    special = {name: text for name in names if (text := _token_text(config.get(name)))}
    return ChatTemplate(source, special) if source else None


def _token_text(value: Any) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _optional_json(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
