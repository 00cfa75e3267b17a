"""The judgement over a finished file: llama.cpp reads, stops and prompts as the model does, and answers. Or no file.

It knows the file and the model's tokenizer; whether the weights are right was decided by the plan, and is shown by the
tests against transformers and PEFT.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from brie_convert.llama_runtime import LoadedFile, open_file
from brie_convert.probe_texts import probe_texts
from brie_convert.vocabulary import Vocabulary
from brie_core.errors import EngineFailure
from brie_core.text.tokenizer import Tokenizer

_CONVERSATION = (
    {"role": "user", "content": "What is virtue?"},
    {"role": "assistant", "content": "Knowledge, says Socrates.\n\nIsn't it?"},
    {"role": "user", "content": "I don't know -- 2 or 3 kinds?"},
)
_ANSWER_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared and found equal."""

    texts: int
    """Tokenized alike by tokenizer.json and llama.cpp."""
    normalizer: str | None
    """Applied to the texts beforehand, because llama.cpp does not."""
    stop_tokens: tuple[int, ...]
    """All that end an answer in the model do so in llama.cpp."""
    prompt: bool
    """Whether there is a chat template; if so, it gave the same prompt."""
    answer: str
    """What the file said, greedily, in a few tokens."""


@dataclass(frozen=True, slots=True)
class Expected:
    """Texts and the tokens that they have in the model: what can be known before there is a file."""

    within: Sequence[tuple[str, list[int]]]
    """As parts of a prompt."""
    whole: Sequence[tuple[str, list[int]]]
    """With what the tokenizer puts around a text."""


def expected(tokenizer: Tokenizer, vocabulary: Vocabulary) -> Expected:
    """Tokenize the probe texts as the model does."""
    texts = probe_texts(vocabulary.control_tokens)
    whole = [(text, tokenizer.encode(text, add_special_tokens=True)) for text in ("", *texts[:20])]
    return Expected([(text, tokenizer.encode(text)) for text in texts], whole)


def verify(file: Path, tokenizer: Tokenizer, vocabulary: Vocabulary, wanted: Expected) -> Verification:
    """Compare and try the file; raises EngineFailure at the first difference."""
    with open_file(file) as loaded:
        _check_texts(loaded, vocabulary, wanted)
        _check_stops(loaded, vocabulary)
        prompt = _check_prompt(loaded, tokenizer, vocabulary)
        answer = loaded.answer(tokenizer.encode(prompt or "Virtue is"), _ANSWER_TOKENS)
    return Verification(
        texts=len(wanted.within),
        normalizer=vocabulary.normalizer,
        stop_tokens=tuple(sorted(vocabulary.stop_ids)),
        prompt=prompt is not None,
        answer=tokenizer.decode(answer),
    )


def _check_texts(loaded: LoadedFile, vocabulary: Vocabulary, wanted: Expected) -> None:
    for text, tokens in wanted.within:
        _compare(text, tokens, loaded.tokenize(vocabulary.normalized(text)))
    for text, tokens in wanted.whole:
        _compare(text, tokens, loaded.tokenize(vocabulary.normalized(text), add_special_tokens=True))


def _compare(text: str, wanted: list[int], found: list[int]) -> None:
    if wanted != found:
        at = next((i for i, pair in enumerate(zip(wanted, found, strict=False)) if pair[0] != pair[1]), 0)
        _fail(f"{text!r} becomes the tokens {wanted[at:][:5]} in the model but {found[at:][:5]} in the file (at {at})")


def _check_stops(loaded: LoadedFile, vocabulary: Vocabulary) -> None:
    if missed := [token for token in sorted(vocabulary.stop_ids) if not loaded.ends_answer(token)]:
        _fail(f"llama.cpp would not end an answer at {vocabulary.tokens[missed[0]]!r}, where the model does")


def _check_prompt(loaded: LoadedFile, tokenizer: Tokenizer, vocabulary: Vocabulary) -> str | None:
    if loaded.chat_template() != vocabulary.chat_template:
        _fail("the chat template did not arrive as it was written")
    if vocabulary.chat_template is None:
        return None
    wanted = tokenizer.render(_CONVERSATION, add_generation_prompt=True)
    found = _rendered(loaded, vocabulary.chat_template)
    if wanted != found:
        _fail(f"the chat template gives {wanted!r} in the model but {found!r} in the file")
    _compare(wanted, tokenizer.encode(wanted), loaded.tokenize(wanted))
    return wanted


def _rendered(loaded: LoadedFile, template: str) -> str:
    """The prompt as llama-cpp-python makes it from what the file holds."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    bos, eos = loaded.token_text("bos"), loaded.token_text("eos")
    formatter: Any = Jinja2ChatFormatter(template=template, bos_token=bos, eos_token=eos)
    return str(formatter(messages=list(_CONVERSATION)).prompt)


def _fail(what: str) -> NoReturn:
    raise EngineFailure(f"The exported file does not agree with the model: {what}.", code="export_verification_failed")
