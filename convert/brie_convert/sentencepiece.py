"""A SentencePiece vocabulary out of tokenizer.json, for when its tokenizer.model is gone. It knows no byte-level BPE.

llama.cpp joins the two neighbours whose join has the highest score; tokenizer.json lists the joins in order. The
score of a token is therefore minus the place of the first join that makes it. That is the same only if the list
holds every way to make each token, which SentencePiece's own vocabularies do, and which is checked here.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPACE = "\u2581"
"""How a space is spelled."""
BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
"""What stands for a byte of a character without a token."""
_ALL_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_ONE_BEFORE = {"type": "Prepend", "prepend": SPACE}


@dataclass(frozen=True, slots=True)
class Spaces:
    """Where a space is put that nobody wrote."""

    prefix: bool
    """llama.cpp's add_space_prefix: before each text, and behind each special token."""
    normalizer: str | None = None
    """A form that texts must come in, because llama.cpp does not bring them into it; `normalized` does."""


SPACE_FIRST = "a space first, unless the text begins with a special token"
_METASPACE = {"never": Spaces(prefix=False), "first": Spaces(prefix=False, normalizer=SPACE_FIRST)}
"""By prepend_scheme. Metaspace puts no space before one, and llama.cpp puts one always or never: so where it has to be
put, the texts have to bring it."""


def normalized(text: str, form: str | None, special_tokens: Sequence[str]) -> str:
    """`text` in the form above: the model reads it as before, and llama.cpp as the model does."""
    if form == SPACE_FIRST and text and not text.startswith((" ", SPACE, *special_tokens)):
        return f" {text}"
    return text


class NotTheSame(ValueError):
    """What llama.cpp would tokenize otherwise, in words that go on from "it has"."""


def is_sentencepiece(spec: Mapping[str, Any]) -> bool:
    """Whether `spec`, a tokenizer.json, is of that kind and not of bytes or words."""
    steps = _steps(spec.get("pre_tokenizer"), "pretokenizers")
    metaspace = any(step.get("type") == "Metaspace" for step in steps)
    return bool(spec["model"].get("byte_fallback") or spec["model"].get("type") == "Unigram" or metaspace)


def read_spaces(spec: Mapping[str, Any]) -> Spaces:
    """Where spaces are put before texts; raises NotTheSame for what llama.cpp does not do with spaces."""
    normalizers = _steps(spec.get("normalizer"), "normalizers")
    splits = _steps(spec.get("pre_tokenizer"), "pretokenizers")
    if normalizers in ([_ALL_SPACES], [_ONE_BEFORE, _ALL_SPACES]) and all(map(_splits_at_plain_spaces, splits)):
        return Spaces(prefix=len(normalizers) > 1)  # no plain space is left to split at
    if normalizers:
        raise NotTheSame(f"the normalizers {' + '.join(str(step.get('type')) for step in normalizers)}")
    if len(splits) != 1 or splits[0].get("type") != "Metaspace" or splits[0].get("replacement") != SPACE:
        raise NotTheSame(f"the pre-tokenizers {' + '.join(str(step.get('type')) for step in splits) or 'none'}")
    if splits[0].get("split", True) and any(SPACE in token[1:] for token in spec["model"]["vocab"]):
        raise NotTheSame("Metaspace that splits at spaces, and tokens with a space within")
    scheme = splits[0].get("prepend_scheme", "always")
    if scheme not in _METASPACE:
        raise NotTheSame(
            f"Metaspace with the prepend_scheme {scheme!r}, which puts a space before texts but not before a space"
        )
    return _METASPACE[scheme]


def check_model(model: Mapping[str, Any]) -> None:
    """Raises NotTheSame for a vocabulary that llama.cpp's SentencePiece tokenizer does not reproduce."""
    if model.get("type") != "BPE":
        raise NotTheSame(f"a SentencePiece vocabulary of the type {model.get('type')}")
    if not model.get("byte_fallback") or not model["vocab"].keys() >= BYTES:
        raise NotTheSame("a SentencePiece vocabulary without a token for each byte")
    if model.get("ignore_merges"):
        raise NotTheSame("a SentencePiece vocabulary with ignore_merges")
    known = {_pair(merge) for merge in model["merges"]}
    if missing := next((pair for pair in _ways(model["vocab"], known) if pair not in known), None):
        raise NotTheSame(f"no merge of {missing[0]!r} and {missing[1]!r}, which together are a token")


def scores(merges: Sequence[str | Sequence[str]], tokens: Sequence[str]) -> tuple[float, ...]:
    """One for each of `tokens`; those that no merge makes are below all others."""
    places: dict[str, int] = {}
    for place, merge in enumerate(merges):
        places.setdefault("".join(_pair(merge)), place)
    return tuple(-float(places.get(token, len(merges))) for token in tokens)


def _ways(vocabulary: Mapping[str, int], known: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Every two tokens that together are a token, of those that text can come to: letters and what is made of them."""
    made = {left + right for left, right in known}
    reached = {token for token in vocabulary if len(token) == 1 or token in made}
    for token in vocabulary:
        if token not in BYTES:
            parts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
            yield from ((left, right) for left, right in parts if left in reached and right in reached)


def _pair(merge: str | Sequence[str]) -> tuple[str, str]:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _steps(step: Mapping[str, Any] | None, inner: str) -> list[Mapping[str, Any]]:
    if step is None:
        return []
    return list(step[inner]) if step.get("type") == "Sequence" else [step]


def _splits_at_plain_spaces(step: Mapping[str, Any]) -> bool:
    return step.get("type") == "Split" and step.get("pattern") == {"String": " "}
