"""Labels: only what the assistant says is learnt, each stop token once, and the prompt is the server's own."""

import time
from pathlib import Path

import pytest

from brie_core.errors import InvalidDataset
from brie_core.text.chat_template import ChatTemplate
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_trainer.data.dataset import read_conversations
from brie_trainer.data.labels import IGNORED, Example, build_examples, build_pairs, build_rated, check_renders, tokenise
from brie_trainer.data.rows import Completion, Conversation, Preference, Rating, Turn
from chat_families import FAMILIES

USER, FIRST = Turn("user", "Why is there bread?", trained=False), Turn("assistant", "Because of hunger.", trained=True)
MORE, SECOND = Turn("user", "And hunger?", trained=False), Turn("assistant", "Ask the bread.", trained=True)
REFUSING = """{% if messages[0].content == 'b' %}{{ raise_exception('no b') }}{% endif %}x<|im_end|>"""
STRIPPING = """{% for m in messages %}<|im_start|>{{ m.role }}
{% if m.role == 'assistant' and loop.last %}<think>

</think>

{% endif %}{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


@pytest.fixture
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


def learnt(example: Example, tokenizer: Tokenizer) -> str:
    kept = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != IGNORED]
    return tokenizer.decode(kept, skip_special_tokens=False)


def test_every_assistant_turn_is_learnt_with_its_stop_token_once(tokenizer: Tokenizer) -> None:
    (example,) = tokenise(Conversation([USER, FIRST, MORE, SECOND]), tokenizer)
    assert learnt(example, tokenizer) == "Because of hunger.<|im_end|>Ask the bread.<|im_end|>"


def test_a_label_is_the_token_itself_or_ignored(tokenizer: Tokenizer) -> None:
    (example,) = tokenise(Conversation([USER, FIRST]), tokenizer)
    assert all(label in {token, IGNORED} for token, label in zip(example.input_ids, example.labels, strict=True))


def test_a_turn_of_weight_zero_is_read_but_not_learnt(tokenizer: Tokenizer) -> None:
    quiet = Turn("assistant", FIRST.content, trained=False)
    (example,) = tokenise(Conversation([USER, quiet, MORE, SECOND]), tokenizer)
    assert learnt(example, tokenizer) == "Ask the bread.<|im_end|>"
    assert example.input_ids == tokenise(Conversation([USER, FIRST, MORE, SECOND]), tokenizer)[0].input_ids


def test_what_stands_before_an_answer_is_the_servers_prompt_token_by_token(tokenizer: Tokenizer) -> None:
    for row in read_conversations(Path("clients/examples/data/philosophy.jsonl"), "training_file"):
        assert isinstance(row, Conversation)
        (example,) = tokenise(row, tokenizer)
        turns = row.turns
        for number, turn in enumerate(turns):
            if turn.trained:
                before = [earlier.as_message() for earlier in turns[:number]]
                prompt = tokenizer.encode(tokenizer.render(before, add_generation_prompt=True))
                assert example.input_ids[: len(prompt)] == prompt
                assert example.labels[len(prompt) - 1] == IGNORED
                assert example.labels[len(prompt)] == example.input_ids[len(prompt)]


@pytest.mark.parametrize("answer", ["\n\nHello", "  Hello", "\tHello"])
def test_an_answer_that_begins_with_white_space_follows_the_servers_prompt(answer: str, tokenizer: Tokenizer) -> None:
    turns = [USER, Turn("assistant", answer, trained=True)]
    (example,) = tokenise(Conversation(turns), tokenizer)
    prompt = tokenizer.encode(tokenizer.render([USER.as_message()], add_generation_prompt=True))
    assert example.input_ids[: len(prompt)] == prompt
    assert learnt(example, tokenizer) == f"{answer}<|im_end|>"


def test_a_row_that_cannot_be_rendered_is_numbered(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = ChatTemplate(
        "{% if messages[0].content == 'b' %}{{ raise_exception('no b') }}{% endif %}x<|im_end|>", {}
    )
    good = Conversation([USER, Turn("assistant", "a", trained=False)])
    bad = Conversation([Turn("user", "b", trained=False), FIRST])
    with pytest.raises(InvalidDataset, match=r"Row 2 of the training file .*no b"):
        check_renders([good, bad], tokenizer, "training_file")


def test_a_template_that_rewrites_earlier_turns_gives_one_example_per_answer(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = ChatTemplate(STRIPPING, {})
    examples = tokenise(Conversation([USER, FIRST, MORE, SECOND]), tokenizer)
    assert [learnt(example, tokenizer).split("\n")[-1] for example in examples] == [
        "Because of hunger.<|im_end|>",
        "Ask the bread.<|im_end|>",
    ]


def test_a_template_without_a_stop_token_is_refused(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = ChatTemplate("{% for m in messages %}{{ m.content }}\n{% endfor %}", {})
    with pytest.raises(InvalidDataset, match="never stop"):
        tokenise(Conversation([USER, FIRST]), tokenizer)


def test_cutting_is_counted_and_what_has_nothing_left_is_dropped(tokenizer: Tokenizer) -> None:
    (whole,) = tokenise(Conversation([USER, FIRST]), tokenizer)
    start = next(at for at, label in enumerate(whole.labels) if label != IGNORED)
    kept, counts = build_examples([Conversation([USER, FIRST])] * 2, tokenizer, start + 2)
    assert (counts.examples, counts.trained, counts.dropped) == (2, 4, 0)
    assert counts.truncated == 2 * (len(whole.input_ids) - start - 2)
    assert build_examples([Conversation([USER, FIRST])], tokenizer, start)[0] == []
    assert [len(example.input_ids) for example in kept] == [start + 2] * 2


def test_what_lies_beyond_the_maximum_is_not_looked_for(tokenizer: Tokenizer) -> None:
    """A row of thousands of turns must not cost their square; what is within the maximum is as ever."""
    rows = [Conversation([USER, FIRST, MORE, SECOND] * 500), Conversation([USER, FIRST, MORE, SECOND] * 20)]
    began = time.process_time()
    (long,), (short,) = (build_examples([row], tokenizer, 200)[0] for row in rows)
    assert time.process_time() - began < 5
    assert long == short


def test_answers_beyond_the_maximum_are_counted_where_each_is_an_example(tokenizer: Tokenizer) -> None:
    tokenizer.chat_template = ChatTemplate(STRIPPING, {})
    row = Conversation([USER, FIRST, MORE, SECOND] * 500)
    kept, counts = build_examples([row], tokenizer, 200)
    assert 5 < counts.examples < 20
    assert counts.examples + counts.dropped == 1000
    assert counts.examples == len(kept)
    assert build_examples([Conversation([USER, FIRST, MORE, SECOND] * 20)], tokenizer, 200)[0] == kept


def test_both_answers_of_a_pair_are_cut_and_never_the_prompt(tokenizer: Tokenizer) -> None:
    long, short = Turn("assistant", "word " * 50, trained=True), Turn("assistant", "No.", trained=True)
    pairs = [Preference(Conversation([USER, long]), Conversation([USER, short]))]
    (whole,), _ = build_pairs(pairs, tokenizer, 500)
    prompt = whole.chosen.num_prompt
    assert whole.chosen.input_ids[:prompt] == whole.rejected.input_ids[:prompt]
    assert whole.rejected.num_prompt == prompt
    (cut,), counts = build_pairs(pairs, tokenizer, prompt + 2)
    assert (cut.chosen.num_trained, cut.rejected.num_trained) == (2, 2)
    assert (counts.examples, counts.cut, counts.trained) == (1, 1, 4)
    assert counts.truncated == len(whole.chosen.input_ids) + len(whole.rejected.input_ids) - 2 * (prompt + 2)
    none, counts = build_pairs(pairs, tokenizer, prompt)
    assert (none, counts.dropped) == ([], 1)


def test_a_pair_of_equal_answers_teaches_nothing(tokenizer: Tokenizer) -> None:
    one, other = Conversation([USER, FIRST]), Conversation([USER, SECOND])
    kept, counts = build_pairs([Preference(one, one), Preference(one, other)], tokenizer, 500)
    assert (len(kept), counts.dropped) == (1, 1)


def test_ratings_keep_what_they_say(tokenizer: Tokenizer) -> None:
    rows = [Rating(Conversation([USER, FIRST]), True), Rating(Conversation([USER, SECOND]), False)]
    kept, counts = build_rated(rows, tokenizer, 500)
    assert [rated.desirable for rated in kept] == [True, False]
    assert learnt(kept[0].example, tokenizer) == "Because of hunger.<|im_end|>"
    assert counts.trained == sum(rated.num_trained for rated in kept)


@pytest.mark.parametrize(
    ("prompt", "text", "learns"),
    [
        ("Once", " upon a time", " upon a time<|im_end|>"),
        ("Once ", "upon", "upon<|im_end|>"),
        ("<|im_start|>user\nq<|im_end|>\n", "a<|im_end|>\n and more", "a<|im_end|>"),
        ("", "Once upon", " upon<|im_end|>"),
    ],
)
def test_text_follows_the_prompt_as_completions_serve_it(
    prompt: str, text: str, learns: str, tokenizer: Tokenizer
) -> None:
    """Special tokens that a text spells are tokens there; the first token of all has nothing to be predicted from."""
    (example,) = tokenise(Completion(prompt, text), tokenizer)
    served = tokenizer.encode(prompt, add_special_tokens=True)
    assert example.input_ids[: len(served)] == served
    assert learnt(example, tokenizer) == learns


def test_a_text_begins_as_the_vocabulary_begins_one(tmp_path: Path) -> None:
    tokenizer = Tokenizer(FAMILIES["gemma3"].write(tmp_path / "gemma"))
    (example,) = tokenise(Completion("Hi", " there"), tokenizer)
    assert tokenizer.piece(example.input_ids[0]) == b"<bos>"
    assert learnt(example, tokenizer) == " there<eos>"
