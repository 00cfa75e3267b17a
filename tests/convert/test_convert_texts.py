"""What is judged on is never calibrated on, and rows are read as the model saw them."""

import json
from pathlib import Path
from typing import Any

import pytest

from brie_convert.prose import PROSE
from brie_convert.texts import CALIBRATION_TOKENS, EVALUATION_TOKENS, divide, read_texts, texts_digest
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel

_TEXTS = tuple(f"The {number}th letter says what no other says: {number * 7919}." for number in range(200))


@pytest.fixture
def tokenizer(default_model: BaseModel) -> Tokenizer:
    return Tokenizer(default_model.folder)


def _windows(texts: tuple[str, ...], tokenizer: Tokenizer) -> set[tuple[int, ...]]:
    return {tuple(tokenizer.encode(text)) for text in texts}


def test_no_text_is_in_both_parts_and_each_part_is_as_long_as_it_should_be(tokenizer: Tokenizer) -> None:
    texts = _TEXTS * 2 + tuple(f"{text} Again." for text in _TEXTS)
    material = divide(read_texts(None, texts, tokenizer), tokenizer, None, 512)
    assert sum(map(len, material.evaluation)) == EVALUATION_TOKENS
    assert 0 < sum(map(len, material.calibration)) <= CALIBRATION_TOKENS
    judged = {tokenizer.decode(window) for window in material.evaluation[:-1]}
    calibrated = {tokenizer.decode(window) for window in material.calibration[:-1]}
    assert judged < set(texts)
    assert calibrated < set(texts)
    assert not judged & calibrated


def test_the_division_does_not_depend_on_the_order(tokenizer: Tokenizer) -> None:
    assert divide(_TEXTS, tokenizer, None, 512) == divide(_TEXTS[::-1], tokenizer, None, 512)


def test_few_texts_calibrate_and_our_own_prose_judges(tokenizer: Tokenizer) -> None:
    material = divide(_TEXTS[:3], tokenizer, None, 512)
    assert material.own_texts
    assert set(material.calibration) == _windows(_TEXTS[:3], tokenizer)
    assert tokenizer.decode(material.evaluation[0]) == PROSE[0][: len(tokenizer.decode(material.evaluation[0]))]
    assert divide((), tokenizer, None, 512).calibration == ()


def test_a_text_longer_than_the_context_becomes_several(tokenizer: Tokenizer) -> None:
    material = divide((" one two three four" * 40,), tokenizer, None, 50)
    assert [len(window) for window in material.calibration] == [50, 50, 50, 10]


def test_the_beginning_of_a_text_stands_once(tokenizer: Tokenizer) -> None:
    bos = tokenizer.encode("<|im_start|>")[0]
    [without, with_it] = divide(
        (
            "Virtue is knowledge, says Socrates, and nobody believes him.",
            "<|im_start|>Virtue is knowledge, says Socrates, and nobody believes him.",
        ),
        tokenizer,
        bos,
        99,
    ).calibration
    assert (
        without == with_it == (bos, *tokenizer.encode("Virtue is knowledge, says Socrates, and nobody believes him."))
    )


_SAID = [{"role": "user", "content": "What is virtue?"}, {"role": "assistant", "content": "Knowledge."}]
_ROWS: list[tuple[dict[str, Any], str | None]] = [
    ({"messages": _SAID}, None),
    ({"prompt": _SAID[:1], "completion": _SAID[1:]}, None),
    ({"prompt": _SAID[:1], "completion": "Knowledge."}, None),
    ({"prompt": _SAID[:1], "chosen": _SAID[1:], "rejected": [{"role": "assistant", "content": "No."}]}, None),
    ({"input": {"messages": _SAID[:1]}, "preferred_output": _SAID[1:], "non_preferred_output": _SAID[:1]}, None),
    ({"conversations": [{"from": "human", "value": "What is virtue?"}, {"from": "gpt", "value": "Knowledge."}]}, None),
    ({"prompt": _SAID[:1], "completion": "Knowledge.", "label": True}, None),
    ({"text": "As it is."}, "As it is."),
    ({"prompt": "Virtue is", "completion": " knowledge."}, "Virtue is knowledge."),
]


@pytest.mark.parametrize(("row", "text"), _ROWS)
def test_a_row_of_each_form_is_rendered_as_it_was_trained(
    row: dict[str, Any], text: str | None, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    wanted = text or tokenizer.render(_SAID, add_generation_prompt=False)
    assert read_texts(tmp_path / "rows.jsonl", (), tokenizer) == (wanted,)


def test_rows_that_nothing_can_be_made_of_are_passed_over(tokenizer: Tokenizer, tmp_path: Path) -> None:
    lines = [
        "",
        "no JSON",
        '{"prompt": "a", "completion": "b", "label": false}',
        '{"conversations": 1}',
        "[]",
        "3",
        "{}",
        '{"messages": 7}',
        '{"messages": []}',
        '{"text": " "}',
        '{"text": "x"}',
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    assert read_texts(tmp_path / "rows.jsonl", ("y", "x"), tokenizer) == ("y", "x")


def test_the_digest_knows_where_a_text_ends() -> None:
    assert texts_digest(("ab", "c")) != texts_digest(("a", "bc"))
    assert texts_digest(()) is None
