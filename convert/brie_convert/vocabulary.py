"""The vocabulary of a GGUF header out of a model folder's tokenizer files: byte-level BPE, or SentencePiece's.

llama.cpp brings its own splitting of text before BPE and picks it by a name. The name is found here by the structure
of tokenizer.json, not by a hash of its results, which can pass wrongly; and `verify` has the last word. It knows no
other kind of vocabulary: those are refused by name.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

from brie_convert import sentencepiece
from brie_core.errors import InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import read_json

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
# (pre-tokenizer steps, whether whole words skip the merges) -> llama.cpp's name for exactly that.
_PRE_TOKENIZERS = {
    (("digits", "bytes and gpt-2 words"), False): "smollm",
    (("bytes and gpt-2 words",), False): "gpt-2",
    ((_QWEN, "bytes"), False): "qwen2",
    ((_LLAMA3, "bytes"), True): "llama-bpe",
    ((_LLAMA3, "bytes"), False): "smaug-bpe",
}
# llama.cpp ends an answer at these texts by itself; other ends have to be written as end of turn or of message.
_KNOWN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")
_GENERATION_TAG = re.compile(r"\{%(-?)\s*(end)?generation\s*(-?)%\}")


@dataclass(frozen=True)
class Vocabulary:
    """Everything llama.cpp has to know to encode, decode and stop."""

    tokens: tuple[str, ...]
    """By id; as many as the embedding has rows."""
    types: tuple[int, ...]
    merges: tuple[str, ...]
    """Of byte-level BPE; empty for SentencePiece's."""
    pre_tokenizer: str
    normalizer: str | None
    """The form that texts must come in, because llama.cpp does not put them into it: NFC, or `SPACE_FIRST`."""
    adds_bos: bool
    adds_eos: bool
    special_ids: Mapping[str, int]
    """bos, eos, eot, eom, unknown, padding: those that the model has."""
    stop_ids: frozenset[int]
    chat_template: str | None
    model: Literal["gpt2", "llama"] = "gpt2"
    """llama.cpp's names for byte-level BPE and SentencePiece's."""
    scores: tuple[float, ...] = ()
    """SentencePiece's order of joining; empty for byte-level BPE."""
    adds_space_prefix: bool = False
    """Whether a text, and what follows a special token, begins with a space that nobody wrote."""

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """The texts that are one token wherever they stand."""
        kinds = zip(self.tokens, self.types, strict=True)
        return tuple(token for token, kind in kinds if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN))

    def normalized(self, text: str) -> str:
        """`text` as llama.cpp has to get it, to read what the model reads."""
        if self.normalizer == "NFC":
            return unicodedata.normalize("NFC", text)
        return sentencepiece.normalized(text, self.normalizer, self.control_tokens)


def read_vocabulary(folder: Path, tokenizer: Tokenizer, rows: int) -> Vocabulary:
    """The vocabulary of `tokenizer`'s folder, padded to `rows`; raises InvalidRequest for kinds not exported."""
    spec = read_json(folder / "tokenizer.json")
    pieces = sentencepiece.is_sentencepiece(spec)
    spaces = _check_pieces(spec) if pieces else _check_bytes(spec)
    merges, tokens, types = spec["model"]["merges"], *_tokens(spec, rows)
    ids = {token: i for i, token in enumerate(tokens)}
    special = _special_ids(folder, ids)
    adds_bos, adds_eos = _added(tokenizer, special)
    return Vocabulary(
        model="llama" if pieces else "gpt2",
        tokens=tokens,
        types=types,
        merges=() if pieces else tuple(merge if isinstance(merge, str) else " ".join(merge) for merge in merges),
        scores=sentencepiece.scores(merges, tokens) if pieces else (),
        pre_tokenizer="default" if pieces else _pre_tokenizer(spec),
        adds_space_prefix=spaces.prefix,
        normalizer=spaces.normalizer,
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        special_ids=special | _other_ends(tokens, tokenizer.stop_ids - {special.get("eos")}),
        stop_ids=tokenizer.stop_ids,
        chat_template=_portable(tokenizer.chat_template.source) if tokenizer.chat_template else None,
    )


def _check_pieces(spec: Mapping[str, Any]) -> sentencepiece.Spaces:
    _check_options(spec["model"])
    try:
        sentencepiece.check_model(spec["model"])
        return sentencepiece.read_spaces(spec)
    except sentencepiece.NotTheSame as difference:
        _refuse(f"{difference}, so llama.cpp would split texts otherwise")


def _check_bytes(spec: Mapping[str, Any]) -> sentencepiece.Spaces:
    if (kind := spec["model"].get("type")) != "BPE":
        _refuse(f"a vocabulary of the type {kind}")
    _check_options(spec["model"])
    normalizer = (spec.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):
        _refuse(f"the normalizer {normalizer}, which llama.cpp does not apply")
    return sentencepiece.Spaces(prefix=False, normalizer=normalizer)


def _check_options(model: Mapping[str, Any]) -> None:
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            _refuse(f"BPE with {option}")


def _tokens(spec: Mapping[str, Any], rows: int) -> tuple[tuple[str, ...], tuple[int, ...]]:
    model = spec["model"]
    entries = {i: (token, _kind(model, token)) for token, i in model["vocab"].items()}
    for added in spec.get("added_tokens", ()):
        entries[added["id"]] = (added["content"], _kind_of_added(model, added))
    # Gemma lists a mark for images, which its text models have no embedding for.
    if lost := [i for i, (_, kind) in entries.items() if i >= rows and kind != _CONTROL]:
        _refuse(f"a token with the id {max(lost)}, but only {rows} embeddings")
    full = [entries.get(i, (f"[PAD{i}]", _UNUSED)) for i in range(rows)]
    tokens, types = zip(*full, strict=True)
    if len(set(tokens)) < rows:
        _refuse("two tokens with the same text")
    return tokens, types


def _kind(model: Mapping[str, Any], token: str) -> int:
    if not model.get("byte_fallback"):
        return _NORMAL
    return _UNKNOWN if token == model.get("unk_token") else _BYTE if token in sentencepiece.BYTES else _NORMAL


def _kind_of_added(model: Mapping[str, Any], added: Mapping[str, Any]) -> int:
    if (kind := _kind(model, added["content"])) != _NORMAL:
        return kind
    return _CONTROL if added["special"] else _USER_DEFINED


def _pre_tokenizer(spec: Mapping[str, Any]) -> str:
    steps = tuple(_steps(spec.get("pre_tokenizer") or {}))
    whole_words = bool(spec["model"].get("ignore_merges"))
    name = _PRE_TOKENIZERS.get((steps, whole_words))
    if name is None:
        _refuse(
            f"a pre-tokenizer that llama.cpp has no known name for ({' + '.join(steps)}, ignore_merges {whole_words}): "
            "report this tokenizer.json, so that it can be added with a test"
        )
    return name


def _steps(step: Mapping[str, Any]) -> Sequence[str]:
    if step.get("type") == "Sequence":
        return [name for inner in step["pretokenizers"] for name in _steps(inner)]
    if step.get("type") == "ByteLevel" and not step.get("add_prefix_space"):
        return ["bytes and gpt-2 words" if step.get("use_regex", True) else "bytes"]
    if step.get("type") == "Digits" and step.get("individual_digits"):
        return ["digits"]
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return [step["pattern"].get("Regex", f"the string {step['pattern'].get('String')!r}")]
    return [str(dict(step))]


def _special_ids(folder: Path, ids: Mapping[str, int]) -> dict[str, int]:
    """By name in tokenizer_config.json, else by number in the other configs."""
    named = _optional(folder / "tokenizer_config.json")
    numbered = [_optional(folder / "generation_config.json"), _optional(folder / "config.json")]
    found: dict[str, int] = {}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")):
        token = named.get(f"{key}_token")
        text = token["content"] if isinstance(token, dict) else token
        if isinstance(text, str) and text in ids:
            found[role] = ids[text]
        elif numbers := [number for config in numbered for number in _numbers(config.get(f"{key}_token_id"))]:
            found[role] = numbers[0]
    return found


def _numbers(value: Any) -> list[int]:
    """An id, a list of ids, or none."""
    return [value] if isinstance(value, int) else value or []


def _other_ends(tokens: Sequence[str], others: frozenset[int]) -> dict[str, int]:
    unknown = sorted(token for token in others if tokens[token] not in _KNOWN_ENDS)
    return dict(zip(("eot", "eom"), unknown, strict=False))  # more than two: `verify` finds the one not marked


def _added(tokenizer: Tokenizer, special: Mapping[str, int]) -> tuple[bool, bool]:
    """What the tokenizer puts around a text of its own accord, seen from what it puts around nothing."""
    bos, eos = special.get("bos"), special.get("eos")
    around = tokenizer.encode("", add_special_tokens=True)
    expected = {(): (False, False), (bos,): (True, False), (eos,): (False, True), (bos, eos): (True, True)}
    if tuple(around) not in expected:
        _refuse(f"a tokenizer that puts the tokens {around} around every text")
    # A lone token that is both bos and eos counts as bos, which is where tokenizers put it.
    return (True, False) if around == [bos] else expected[tuple(around)]


def _portable(template: str) -> str:
    """`{% generation %}` marks text for trainers and few renderers know it: an `if` that holds does the same."""
    return _GENERATION_TAG.sub(lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", template)


def _optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}


def _refuse(what: str) -> NoReturn:
    raise InvalidRequest(
        f"This model's tokenizer cannot be exported to GGUF: it has {what}.",
        param="model",
        code="unsupported_tokenizer",
    )
