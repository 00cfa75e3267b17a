"""Rows as they are shown before training: every token once, what is learnt marked, nothing a terminal would obey."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from brie_core.text.tokenizer import Tokenizer
from brie_trainer.data.chat_rows import conversation_of
from brie_trainer.data.labels import Pair, Rated, tokenise
from brie_trainer.data.preview import MOST_TOKENS, Segment, as_json, as_text, show
from chat_families import FAMILIES


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer(FAMILIES["chatml"].write(tmp_path_factory.mktemp("preview") / "chatml"))


def chat(*contents: str) -> Any:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]}


def test_what_is_learnt_is_marked_and_all_is_there(tokenizer: Tokenizer) -> None:
    made = tokenise(conversation_of(chat("q", "日本 🧀", "r", "b")), tokenizer)
    (shown,) = show([(7, made)], tokenizer, 500)
    assert shown.segments == (
        Segment("<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n", trained=False),
        Segment("日本 🧀<|im_end|>", trained=True),
        Segment("\n<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n", trained=False),
        Segment("b<|im_end|>", trained=True),
    )
    assert (shown.line, shown.name, shown.tokens, shown.cut) == (7, "example", len(made[0].input_ids), 0)
    assert as_json([shown])[0]["segments"][1] == {"text": "日本 🧀<|im_end|>", "trained": True}


def test_what_is_cut_off_is_not_shown_but_counted(tokenizer: Tokenizer) -> None:
    made = tokenise(conversation_of(chat("q", "word " * 3000)), tokenizer)
    (shown,) = show([(1, made)], tokenizer, 20)
    assert (shown.tokens, shown.cut) == (len(made[0].input_ids), len(made[0].input_ids) - 20)
    assert sum(len(tokenizer.encode(segment.text)) for segment in shown.segments) == 20
    (long,) = show([(1, made)], tokenizer, 10**6)
    assert long.cut == 0
    assert sum(len(segment.text) for segment in long.segments) < 6 * MOST_TOKENS


def test_pairs_and_ratings_are_named(tokenizer: Tokenizer) -> None:
    (good,) = tokenise(conversation_of(chat("q", "a")), tokenizer)
    (bad,) = tokenise(conversation_of(chat("q", "b")), tokenizer)
    rows: list[tuple[int, list[Any]]] = [(1, [Pair(good, bad)]), (2, [Rated(good, True)]), (3, [Rated(bad, False)])]
    names = [(shown.line, shown.name) for shown in show(rows, tokenizer, 500)]
    assert names == [(1, "chosen"), (1, "rejected"), (2, "desirable"), (3, "undesirable")]


@pytest.mark.parametrize("in_colours", [True, False])
def test_a_terminal_is_told_and_not_steered(in_colours: bool, tokenizer: Tokenizer, tmp_path: Path) -> None:
    made = tokenise(conversation_of(chat("[bold]q", "\x1b[2Ja\x07" + "long " * 500)), tokenizer)
    (shown,) = show([(1, made)], tokenizer, 5000)
    with (tmp_path / "terminal").open("w+") as stream:
        console = Console(file=stream, force_terminal=in_colours, color_system="standard" if in_colours else None)
        console.print(as_text(shown, in_colours=in_colours))
        stream.seek(0)
        text = stream.read()
    assert "[bold]q" in text
    assert "␛[2Ja␇long" in text
    assert "\x07" not in text
    assert "characters …" in text
    assert ("\x1b[1;32m" in text) is in_colours
    assert ("⟦␛" in text) is not in_colours
