"""What is trained on is what is served: token by token, for seven chat templates and 300 random conversations each."""

import copy
import json
import random
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from brie_core.text.chat_template import ChatTemplate
from brie_core.text.spelled import ANCHOR, MARK
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.base_model import BaseModel
from brie_server.api.conversations import conversation_of
from brie_server.api.tool_messages import offer_of
from brie_server.engine.base import FinishReason, Token
from brie_server.generation.conversation import render
from brie_server.generation.tool_answer import ToolAnswer
from brie_server.generation.tool_calls import Arguments, CallBegun, Text
from brie_server.schema.chat import ChatRequest
from brie_trainer.data.answer_rows import preference_of
from brie_trainer.data.chat_rows import conversation_of as row_of
from brie_trainer.data.labels import IGNORED, pair_of, tokenise
from brie_trainer.data.rows import Conversation
from chat_families import FAMILIES, Family

NUM_CONVERSATIONS = 300
NAMES = ("smollm2", *FAMILIES)
ORIGINALS = {
    "qwen2_5": "qwen2.5",
    "qwen3": "qwen3",
    "qwen3_instruct_2507": "qwen2.5",
    "llama3": "llama3",
    "llama3_1": "llama3",
    "llama3_2": "llama3",
    "gemma3": "gemma3",
}
"""TRL carries these families' templates as they were published; the family each behaves as."""
PIECES = (
    "Why is there bread?",
    "Because of hunger.",
    "hello",
    "日本語のテキスト",
    "👩‍👩‍👧 e\u0301 \U0001f9c0",
    "1,234.5",
    "\n",
    "\n\n",
    "\n\n\n",
    " ",
    "\t",
    "\u00a0",
    "\u2028",
    "\r\n",
    "'s",
    "...",
    "def f(n):\n    return n",
    '{"a": [1, 2]}',
    "<|im_end|>",
    "<|im_start|>user",
    "<|eot_id|>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<end_of_turn>",
    "<eos>",
    "<|endoftext|>",
    "<think>\nhm\n</think>\n\n",
    "\x00",
    "\ufdd0",
    "\ufdd1",
)
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "look", "description": "Sehen 👀", "parameters": {"type": "object"}}},
    {"type": "function", "function": {"name": "wait"}},
]


@pytest.fixture(scope="module")
def tokenizers(default_model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    folder = tmp_path_factory.mktemp("families")
    small = {family.name: Tokenizer(family.write(folder / family.name)) for family in FAMILIES.values()}
    return {"smollm2": Tokenizer(default_model.folder), **small}


def said(chance: random.Random) -> str:
    """Never blank, in whatever disorder."""
    pieces = [*chance.choices(PIECES, k=chance.randint(0, 4)), chance.choice(PIECES[:6])]
    chance.shuffle(pieces)
    return "".join(pieces)


def clean(text: str) -> str:
    """Without what Brie sets apart for its own use."""
    return text.replace(MARK, "").replace(ANCHOR, "")


def calls(chance: random.Random, most: int) -> list[dict[str, Any]]:
    made = []
    for number in range(chance.randint(1, most)):
        arguments = json.dumps({"at": clean(said(chance)), "n": number}, ensure_ascii=chance.random() < 0.5)
        call_id = f"call_{chance.randrange(10**12):012}"
        function = {"name": chance.choice(TOOLS)["function"]["name"], "arguments": arguments}
        made.append({"id": call_id, "type": "function", "function": function})
    return made


def random_row(chance: random.Random, most_calls: int) -> dict[str, Any]:
    """OpenAI's chat row: with or without a system message, tools and calls; some answers have weight 0."""
    with_tools = chance.random() < 0.3
    messages: list[dict[str, Any]] = []
    if chance.random() < 0.5:
        messages.append({"role": chance.choice(["system", "developer"]), "content": said(chance)})
    for _ in range(chance.choice([1, 1, 2, 3, 4])):
        messages.append({"role": "user", "content": said(chance)})
        if with_tools and chance.random() < 0.5:
            made = calls(chance, most_calls)
            messages.append({"role": "assistant", "content": None, "tool_calls": made})
            messages += [{"role": "tool", "content": said(chance), "tool_call_id": call["id"]} for call in made]
        messages.append({"role": "assistant", "content": said(chance)})
        if chance.random() < 0.2:
            messages[-1]["weight"] = 0
    if with_tools and chance.random() < 0.3:
        messages[-1] = {"role": "assistant", "tool_calls": calls(chance, most_calls)}
    messages[-1].pop("weight", None)
    return {"messages": messages, **({"tools": TOOLS} if with_tools else {})}


def served_prompt(row: dict[str, Any], number: int, tokenizer: Tokenizer) -> list[int]:
    """What the engine is fed for a request with the first `number` messages, as /v1/chat/completions does it."""
    messages = copy.deepcopy(row["messages"][:number])
    for message in messages:
        message.pop("weight", None)
    body = ChatRequest.model_validate({"model": "m", **row, "messages": messages})
    return tokenizer.encode(render(tokenizer, conversation_of(body, body.messages, offer_of(body))))


def learnt(row: dict[str, Any], tokenizer: Tokenizer) -> Iterator[tuple[list[int], list[int]]]:
    """Each answer that is trained: the tokens before it, and its own."""
    for example in tokenise(row_of(row), tokenizer):
        assert len(example.input_ids) == len(example.labels)
        start = 0
        for is_learnt, run in groupby(example.labels, lambda label: label != IGNORED):
            labels = list(run)
            if is_learnt:
                # two answers that follow one another would be one run: a stop token parts them
                assert example.input_ids[start : start + len(labels)] == labels
                yield example.input_ids[:start], labels
            start += len(labels)


def shown(row: dict[str, Any], ids: Sequence[int], tokenizer: Tokenizer) -> tuple[str, list[tuple[str, Any]]]:
    """What the server would make of these tokens: the answer's text, and its calls."""
    body = ChatRequest.model_validate({"model": "m", "messages": row["messages"][:1], "tools": TOOLS})
    offer = offer_of(body)
    assert offer is not None
    answer = ToolAnswer(tokenizer, offer, ())
    text, made = "", dict[int, tuple[str, str]]()
    for number, token in enumerate(ids, start=1):
        for event in answer.add(Token(token, FinishReason.STOP if number == len(ids) else None)).events:
            if isinstance(event, Text):
                text += event.text
            elif isinstance(event, CallBegun):
                made[event.index] = (event.name, "")
            elif isinstance(event, Arguments):
                name, arguments = made[event.index]
                made[event.index] = (name, arguments + event.text)
    return text, [(name, json.loads(arguments)) for name, arguments in made.values()]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_on_is_what_is_served(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    check_parity(tokenizers[name], FAMILIES.get(name), random.Random(f"parity of {name}"))


@pytest.mark.parametrize("name", ORIGINALS)
def test_so_it_is_for_the_templates_as_published(name: str, tmp_path: Path) -> None:
    family = FAMILIES[ORIGINALS[name]]
    tokenizer = Tokenizer(family.write(tmp_path / name))
    (package,) = find_spec("trl").submodule_search_locations  # type: ignore[union-attr, misc]
    source = (Path(package) / "chat_templates" / f"{name}.jinja").read_text()
    tokenizer.chat_template = ChatTemplate(source, {"bos_token": family.bos or "", "eos_token": family.eos})
    check_parity(tokenizer, family, random.Random(f"parity of {name}"))


def check_parity(tokenizer: Tokenizer, family: Family | None, chance: random.Random) -> None:
    """Over random conversations: the prompt, the answer, and the one stop token behind it."""
    for _ in range(NUM_CONVERSATIONS):
        row = random_row(chance, 2 if family is None else family.most_calls)
        trained = [
            number
            for number, message in enumerate(row["messages"])
            if message["role"] == "assistant" and message.get("weight", 1) == 1
        ]
        answers = list(learnt(row, tokenizer))
        assert len(answers) == len(trained)
        for number, (before, ids) in zip(trained, answers, strict=True):
            message = row["messages"][number]
            assert before == served_prompt(row, number, tokenizer)
            assert ids[-1] in tokenizer.stop_ids
            assert not set(ids[:-1]) & tokenizer.stop_ids
            if wanted := message.get("tool_calls"):
                _, made = shown(row, ids, tokenizer)
                told = [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in wanted]
                assert made == told
            else:
                written = b"".join(map(tokenizer.piece, ids[:-1])).decode()
                heard = clean(message["content"])
                assert written == (heard if family is None else family.answer(heard))


@pytest.mark.parametrize("name", NAMES)
def test_both_answers_of_a_pair_follow_the_served_prompt(name: str, tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer, chance = tokenizers[name], random.Random(f"pairs of {name}")
    for _ in range(50):
        row = random_row(chance, 1)
        *prompt, last = row["messages"]
        if last.get("tool_calls"):
            continue
        pair = pair_of(preference_of({**row, "prompt": prompt, "chosen": said(chance), "rejected": [last]}), tokenizer)
        served = served_prompt(row, len(prompt), tokenizer)
        for example in (pair.chosen, pair.rejected):
            assert example.input_ids[: len(served)] == served
            assert example.labels == [IGNORED] * len(served) + example.input_ids[len(served) :]
            assert [token in tokenizer.stop_ids for token in example.input_ids[len(served) :]].count(True) == 1
            assert example.input_ids[-1] in tokenizer.stop_ids


def test_templates_that_rewrite_earlier_turns_give_an_example_per_answer(tokenizers: dict[str, Tokenizer]) -> None:
    question, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    row = {"messages": [{"role": "system", "content": "s"}, *[question, answer] * 2]}
    counted = {name: len(tokenise(row_of(row), tokenizer)) for name, tokenizer in tokenizers.items()}
    assert counted == dict.fromkeys(NAMES, 1) | {"qwen3": 2, "mistral": 2, "mistral, older conversion": 2}


def test_a_prompt_that_ends_with_a_space_does_not_double_it(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    """Where a vocabulary puts a space before every text, an answer tokenised alone would get one."""
    family = FAMILIES["mistral, older conversion"]
    tokenizer = Tokenizer(family.write(tmp_path / "spaced"))
    template = "{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '</s>' }}{% endfor %}"
    opening = "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    tokenizer.chat_template = ChatTemplate(template + opening, {})
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    (example,) = tokenise(row_of({"messages": messages}), tokenizer)
    ids = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label != IGNORED]
    assert b"".join(map(tokenizer.piece, ids)) == b"Hello</s>"


def test_a_conversation_is_not_changed_by_being_tokenised(tokenizers: dict[str, Tokenizer]) -> None:
    row = random_row(random.Random(5), 1)
    before = copy.deepcopy(row)
    read = row_of(row)
    assert isinstance(read, Conversation)
    for tokenizer in tokenizers.values():
        tokenise(read, tokenizer)
    assert row == before
    assert read == row_of(before)
