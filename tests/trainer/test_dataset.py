"""Training rows: a fault is told with its line, and nothing faulty is trained on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from brie_core.errors import InvalidDataset
from brie_trainer.data.dataset import read_conversations
from brie_trainer.data.rows import Conversation, Turn

GOOD = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}


def write(folder: Path, *rows: Any) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def row(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def read_turns(file: Path) -> Sequence[Turn]:
    first = read_conversations(file, "training_file")[0]
    assert isinstance(first, Conversation)
    return first.turns


def test_rows_are_read_with_blank_lines_and_bom(tmp_path: Path) -> None:
    file = write(tmp_path, "\ufeff" + json.dumps(GOOD), "", GOOD)
    assert len(read_conversations(file, "training_file")) == 2


def test_a_weight_of_zero_is_not_learnt(tmp_path: Path) -> None:
    quiet = {"role": "assistant", "content": "a", "weight": 0}
    turns = read_turns(write(tmp_path, row(GOOD["messages"][0], quiet, *GOOD["messages"])))
    assert [turn.trained for turn in turns] == [False, False, False, True]


def test_text_parts_are_joined_and_developers_are_the_system(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    file = write(tmp_path, row({"role": "developer", "content": parts}, *GOOD["messages"]))
    assert read_turns(file)[0].as_message() == {"role": "system", "content": "ab"}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("{", "not valid JSON"),
        ({"prompt": "x"}, "its keys are ['prompt']"),
        ({"messages": []}, "no list 'messages'"),
        (row({"role": "user", "content": "q"}), "last message must be the assistant's"),
        (row({"role": "king", "content": "q"}), "role is 'king'"),
        (row("x"), "it is not an object"),
        (row(GOOD["messages"][1]), "begins with an assistant message"),
        (row({"role": "user", "content": "a\ud800"}, GOOD["messages"][1]), "surrogate"),
        (row(GOOD["messages"][0], {"role": "assistant", "content": None}), "content must be a string"),
        (row({"role": "assistant", "content": "  "}), "content is empty"),
        (row(GOOD["messages"][0], {"role": "assistant", "content": "a", "weight": 0}), "every one has weight 0"),
        (row({"role": "assistant", "content": "a", "weight": 0.5}), "weight must be 0 or 1"),
        (row({"role": "user", "content": "a", "weight": 1}, GOOD["messages"][1]), "assistant messages only"),
        (row({"role": "assistant", "content": "a", "tool_calls": [1]}), "tool_calls"),
        (GOOD | {"tools": [{}]}, "tools"),
    ],
)
def test_a_faulty_seventh_line_is_named(bad: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="7") as caught:
        read_conversations(write(tmp_path, *[GOOD] * 6, bad, GOOD), "validation_file")
    assert said in caught.value.message
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")


def test_a_file_without_rows_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidDataset, match="no rows"):
        read_conversations(write(tmp_path, ""), "training_file")
