"""tokenizer.json to llama.cpp's vocabulary: the splitting found by its structure, everything else refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from brie_convert.vocabulary import Vocabulary, read_vocabulary
from brie_core.errors import InvalidRequest
from brie_core.text.tokenizer import Tokenizer

_METASPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": False}
SaveTokenizer = Callable[[Path, str], None]


def _read(folder: Path, rows: int = 704) -> Vocabulary:
    return read_vocabulary(folder, Tokenizer(folder), rows)


def _change(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    change(spec)
    (folder / "tokenizer.json").write_text(json.dumps(spec))


@pytest.mark.parametrize("name", ["smollm", "gpt-2", "qwen2", "llama-bpe", "smaug-bpe"])
def test_the_pre_tokenizer_is_known_by_its_structure(tmp_path: Path, save_tokenizer: SaveTokenizer, name: str) -> None:
    save_tokenizer(tmp_path, name)
    assert _read(tmp_path).pre_tokenizer == name


def test_rows_without_a_token_are_padded_as_unused(tmp_path: Path, save_tokenizer: SaveTokenizer) -> None:
    save_tokenizer(tmp_path, "smollm")
    vocabulary = _read(tmp_path, rows=710)
    assert len(vocabulary.tokens) == len(vocabulary.types) == 710
    assert (vocabulary.tokens[709], vocabulary.types[709]) == ("[PAD709]", 5)


def test_special_tokens_keep_their_kinds_and_roles(tmp_path: Path, save_tokenizer: SaveTokenizer) -> None:
    save_tokenizer(tmp_path, "smollm")
    vocabulary = _read(tmp_path)
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert (kinds["<|im_end|>"], kinds["<|extra|>"], kinds["a"]) == (3, 4, 1)
    extra = vocabulary.tokens.index("<|extra|>")
    assert vocabulary.special_ids == {"bos": 1, "eos": 2, "eot": extra}  # 0 ends an answer by its own text
    assert vocabulary.stop_ids == {0, 2, extra}


def test_bos_is_added_where_the_tokenizer_adds_it(tmp_path: Path, save_tokenizer: SaveTokenizer) -> None:
    save_tokenizer(tmp_path, "llama-bpe")
    assert _read(tmp_path).adds_bos
    _change(tmp_path, lambda spec: spec.update(post_processor=None))
    assert not _read(tmp_path).adds_bos


def test_generation_marks_leave_the_template(tmp_path: Path, save_tokenizer: SaveTokenizer) -> None:
    save_tokenizer(tmp_path, "smollm")
    template = _read(tmp_path).chat_template
    assert template is not None
    assert "generation -%}" not in template
    assert "{%- if true -%}{{ message['content'] + '<|im_end|>' }}{%- endif %}" in template


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda spec: spec["model"].update(byte_fallback=True), "without a token for each byte"),
        (lambda spec: spec["model"].update(continuing_subword_prefix="##"), "continuing_subword_prefix"),
        (lambda spec: spec.update(normalizer={"type": "Lowercase"}), "Lowercase"),
        (lambda spec: spec["model"].update(ignore_merges=True), "ignore_merges True"),
        (lambda spec: spec.update(pre_tokenizer={"type": "Whitespace"}), "Whitespace"),
        (lambda spec: spec["model"]["vocab"].update({"zz\u0120": 9999}), "only 704 embeddings"),
    ],
)
def test_other_vocabularies_are_refused_by_name(
    tmp_path: Path, save_tokenizer: SaveTokenizer, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    save_tokenizer(tmp_path, "smollm")
    tokenizer = Tokenizer(tmp_path)
    _change(tmp_path, change)
    with pytest.raises(InvalidRequest, match=named) as caught:
        read_vocabulary(tmp_path, tokenizer, 704)
    assert caught.value.code == "unsupported_tokenizer"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda spec: spec["model"]["merges"].pop(), "no merge of"),
        (lambda spec: spec["model"].update(type="Unigram"), "Unigram"),
        (lambda spec: spec["normalizer"]["normalizers"].append({"type": "NFKC"}), "NFKC"),
        (lambda spec: spec.update(normalizer=None, pre_tokenizer=_METASPACE), "prepend_scheme 'always'"),
    ],
)
def test_sentencepiece_that_llama_cpp_would_split_otherwise_is_refused_by_name(
    tmp_path: Path, save_tokenizer: SaveTokenizer, change: Callable[[dict[str, Any]], None], named: str
) -> None:
    save_tokenizer(tmp_path, "always")
    tokenizer = Tokenizer(tmp_path)
    _change(tmp_path, change)
    with pytest.raises(InvalidRequest, match=named):
        read_vocabulary(tmp_path, tokenizer, 704)


def test_sentencepiece_scores_follow_the_merges_and_bytes_are_bytes(
    tmp_path: Path, save_tokenizer: SaveTokenizer
) -> None:
    save_tokenizer(tmp_path, "never")
    vocabulary = _read(tmp_path)
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    first, last = ("".join(merges[place]) for place in (0, -1))
    scores = dict(zip(vocabulary.tokens, vocabulary.scores, strict=True))
    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    assert scores[first] == 0 > scores[last] > scores["a"]
    assert (kinds["<unk>"], kinds["<0x0A>"], kinds["<bos>"], kinds["<extra>"]) == (2, 6, 3, 4)
