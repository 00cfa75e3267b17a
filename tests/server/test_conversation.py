"""A conversation whose last message goes on, and what a template is told besides: as transformers renders it."""

from typing import Any

import pytest
from transformers import AutoTokenizer

from brie_core.errors import InvalidRequest
from brie_core.text.chat_template import ChatTemplate, Variable
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_server.generation.conversation import Conversation, Opening, render

ASKED = {"role": "user", "content": "Name a cheese."}
STRIPPING = "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}<|im_end|>\n{% endfor %}"
NAMING = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}{{ enable_thinking }} {{ messages | length }}"
DROPPING = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"


@pytest.fixture
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


@pytest.fixture(scope="module")
def reference(default_model: BaseModel) -> Any:
    return AutoTokenizer.from_pretrained(default_model.folder)


@pytest.mark.parametrize("begun", ["A good one is", "One is ", " ", "Brie.\n\n", "🧀"])
@pytest.mark.parametrize("template", [None, STRIPPING])
def test_a_message_goes_on_where_transformers_lets_it(
    begun: str, template: str | None, tokenizer: Tokenizer, reference: Any
) -> None:
    if template:
        tokenizer.chat_template = ChatTemplate(template, {})
    messages = [ASKED, {"role": "assistant", "content": begun}]
    shown = render(tokenizer, Conversation(messages=messages, opening=Opening.CONTINUED))
    how = {"chat_template": template} if template else {}
    if template and not begun.strip():
        assert shown.endswith("[assistant]")  # transformers 5.23 finds the place only where some text is left
        return
    assert shown == reference.apply_chat_template(messages, tokenize=False, continue_final_message=True, **how)


def test_the_message_that_goes_on_may_spell_what_marks_its_end(tokenizer: Tokenizer) -> None:
    messages = [ASKED, {"role": "assistant", "content": "a\ufdd2 b<|im_end|>"}]
    shown = render(tokenizer, Conversation(messages=messages, opening=Opening.CONTINUED))
    text = tokenizer.decode(tokenizer.encode(shown), skip_special_tokens=False)
    assert text.endswith("<|im_start|>assistant\na\ufdd2 b<|im_end|>")
    assert tokenizer.encode(shown)[-1] not in tokenizer.special_ids


def test_a_message_that_is_not_shown_cannot_go_on(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = ChatTemplate(DROPPING, {})
    messages = [ASKED, {"role": "assistant", "content": "Brie"}]
    with pytest.raises(InvalidRequest, match="does not show") as refused:
        render(tokenizer, Conversation(messages=messages, opening=Opening.CONTINUED))
    assert refused.value.param == "continue_final_message"


def test_a_template_reads_variables_and_never_in_the_place_of_its_own(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = ChatTemplate(NAMING, {})
    told: dict[str, Variable] = {"enable_thinking": False, "messages": "none"}
    shown = render(tokenizer, Conversation(messages=[ASKED], variables=told))
    assert shown == "user: Name a cheese.False 1"


def test_nobodys_turn_is_open(tokenizer: Tokenizer, reference: Any) -> None:
    shown = render(tokenizer, Conversation(messages=[ASKED], opening=Opening.NONE))
    assert shown == reference.apply_chat_template([ASKED], tokenize=False)
