"""The judgement fails closed: a file that reads, stops or prompts otherwise than the model does not pass."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from brie_convert.probe_texts import probe_texts
from brie_convert.verify import Verification, expected, verify
from brie_convert.vocabulary import read_vocabulary
from brie_core.errors import EngineFailure
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from pieces import FORMS

Checkpoint = Callable[[str], BaseModel]
Export = Callable[..., Any]
WriteFile = Callable[..., Path]
SaveTokenizer = Callable[[Path, str], None]


def _judge(file: Path, base: BaseModel) -> Verification:
    tokenizer = Tokenizer(base.folder)
    vocabulary = read_vocabulary(base.folder, tokenizer, 704)
    return verify(file, tokenizer, vocabulary, expected(tokenizer, vocabulary))


def test_the_default_model_reads_three_thousand_texts_alike(default_model: BaseModel, run_export: Export) -> None:
    _, result = run_export(default_model, "q8_0")
    found = result.manifest["verification"]
    assert (found["texts"], found["normalizer"], found["stop_tokens"], found["prompt"]) == (3000, None, [2], True)
    assert len(found["answer"]) > 10


def test_the_texts_are_the_same_every_time_and_hold_every_special_token() -> None:
    texts = probe_texts(("<|a|>", "<|b|>"))
    assert texts == probe_texts(("<|a|>", "<|b|>"))
    assert len(texts) == 3000
    assert all(any(token in text for text in texts) for token in ("<|a|>", "<|b|>", "½", "\u00a0", "\r\n", "🙂", "'ll"))


def test_a_model_that_normalizes_is_judged_on_normalized_texts(checkpoint: Checkpoint, write_file: WriteFile) -> None:
    assert _judge(write_file(checkpoint("qwen2")), checkpoint("qwen2")).normalizer == "NFC"


@pytest.mark.parametrize("name", ["smollm", "gpt-2", "qwen2", "llama-bpe", "smaug-bpe", *FORMS])
def test_llama_cpp_splits_as_the_name_found_for_a_tokenizer_promises(
    checkpoint: Checkpoint, write_file: WriteFile, save_tokenizer: SaveTokenizer, tmp_path: Path, name: str
) -> None:
    shutil.copytree(checkpoint("llama").folder, tmp_path / "copy")
    save_tokenizer(tmp_path / "copy", name)
    base = BaseModel("copy", tmp_path / "copy", "")
    assert _judge(write_file(base), base).texts == 3000


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pre_tokenizer": "gpt-2"}, "becomes the tokens"),
        ({"pre_tokenizer": "qwen2"}, "becomes the tokens"),
        ({"adds_bos": True}, "becomes the tokens"),
        ({"special_ids": {"bos": 1, "eos": 2}}, r"would not end an answer at '<\|extra\|>'"),
        ({"chat_template": "{{ bos_token }}"}, "chat template"),
        ({"chat_template": None}, "chat template"),
    ],
)
def test_a_wrong_vocabulary_does_not_pass(
    checkpoint: Checkpoint, write_file: WriteFile, changes: dict[str, Any], named: str
) -> None:
    file = write_file(checkpoint("llama"), change=lambda vocabulary: replace(vocabulary, **changes))
    with pytest.raises(EngineFailure, match=named) as caught:
        _judge(file, checkpoint("llama"))
    assert caught.value.code == "export_verification_failed"


@pytest.mark.parametrize(
    "changes",
    [
        {"adds_space_prefix": False},
        {"scores": (-1000.0,) * 704},
        {"types": (1,) * 704},
    ],
)
def test_a_wrong_sentencepiece_vocabulary_does_not_pass(
    checkpoint: Checkpoint, write_file: WriteFile, changes: dict[str, Any]
) -> None:
    file = write_file(checkpoint("mistral"), change=lambda vocabulary: replace(vocabulary, **changes))
    with pytest.raises(EngineFailure, match="becomes the tokens"):
        _judge(file, checkpoint("mistral"))


def test_reversed_merges_do_not_pass(checkpoint: Checkpoint, write_file: WriteFile) -> None:
    base = checkpoint("llama")
    file = write_file(base, change=lambda vocabulary: replace(vocabulary, merges=vocabulary.merges[::-1]))
    with pytest.raises(EngineFailure, match="becomes the tokens"):
        _judge(file, base)
