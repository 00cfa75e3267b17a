"""Tokenizer and chat template equal transformers' on the default model."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from brie_core.errors import InvalidRequest
from brie_core.text.chat_template import ChatTemplate
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel

CONVERSATIONS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Who was Spinoza?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Déjà vu? 1½ ²③\n\n  tabs\t"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\n b"}, {"role": "user", "content": "🧀"}],
]


@pytest.fixture(scope="module")
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.fixture(scope="module")
def reference(default_model: BaseModel) -> Any:
    return AutoTokenizer.from_pretrained(default_model.folder)


def test_special_tokens_are_those_that_decoding_drops(tokenizer: Tokenizer) -> None:
    empty = {token for token in range(tokenizer.vocab_size) if not tokenizer.decode([token])}
    assert empty == tokenizer.special_ids > tokenizer.stop_ids


@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("prompt", [True, False])
def test_a_conversation_has_the_tokens_transformers_gives_it(
    messages: list[dict[str, str]], prompt: bool, tokenizer: Tokenizer, reference: Any
) -> None:
    ours = tokenizer.encode(tokenizer.render(messages, add_generation_prompt=prompt))
    assert ours == reference.apply_chat_template(messages, add_generation_prompt=prompt)["input_ids"]


def test_every_row_of_the_example_data_round_trips(tokenizer: Tokenizer, reference: Any) -> None:
    rows = (Path("clients/examples/data") / "philosophy.jsonl").read_text().splitlines()
    for row in map(json.loads, rows):
        text = tokenizer.render(row["messages"], add_generation_prompt=False)
        assert tokenizer.encode(text) == reference(text)["input_ids"]
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=False) == text


def test_the_stop_tokens_are_known(tokenizer: Tokenizer) -> None:
    assert tokenizer.stop_ids == {2}


def test_a_template_cannot_reach_python() -> None:
    template = ChatTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}", {})
    with pytest.raises(InvalidRequest):
        template.render([{"role": "user", "content": "x"}], add_generation_prompt=True)


def test_what_a_template_refuses_is_told_in_its_words() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(InvalidRequest, match="roles must alternate"):
        template.render([], add_generation_prompt=True)


def test_generation_marks_are_transparent() -> None:
    template = ChatTemplate("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", {})
    assert template.render([{"role": "user", "content": "x"}], add_generation_prompt=False) == "x"
