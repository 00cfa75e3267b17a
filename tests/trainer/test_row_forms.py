"""Every form that rows come in: read to one and the same, or refused with what to write instead."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from brie_core.errors import InvalidDataset
from brie_trainer.data.dataset import Method, read_conversations, read_preferences, read_ratings, stream_dataset
from brie_trainer.data.rows import Completion, Conversation, Learnable, Preference, Rating, Turn

USER = {"role": "user", "content": "Where?"}
ANSWER = {"role": "assistant", "content": "There."}
WORSE = {"role": "assistant", "content": "Here."}
GOOD = {"messages": [USER, ANSWER]}
CALL = {"id": "call_0", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "It is there.", "tool_call_id": "call_0"}
LOOK = {"name": "look", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": LOOK}]
ASKED = Turn("user", "Where?", trained=False)
TWO = Conversation([ASKED, Turn("assistant", "There.", trained=True)])
OTHER = Conversation([ASKED, Turn("assistant", "Here.", trained=True)])


def write(folder: Path, *rows: Any) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def first(folder: Path, row: Any) -> Learnable:
    return read_conversations(write(folder, row), "training_file")[0]


def refusal(folder: Path, method: Method, *rows: Any) -> str:
    with pytest.raises(InvalidDataset) as caught:
        list(stream_dataset(write(folder, *rows), "training_file", method))
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "training_file")
    return caught.value.message


@pytest.mark.parametrize(
    "row",
    [
        GOOD,
        GOOD | {"id": 3, "parallel_tool_calls": True, "tools": [], "functions": None},
        {"prompt": [USER], "completion": [ANSWER]},
        {"prompt": [USER], "completion": "There."},
        {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]},
        {"conversations": [USER, ANSWER]},
        {"messages": [USER | {"name": "Ada"}, ANSWER | {"refusal": None, "tool_calls": None}]},
    ],
)
def test_a_conversation_is_the_same_in_every_form(row: Any, tmp_path: Path) -> None:
    found = first(tmp_path, row)
    assert isinstance(found, Conversation)
    assert Conversation(list(found.turns), found.tools) == TWO


def test_a_prompt_that_is_a_string_is_text(tmp_path: Path) -> None:
    assert first(tmp_path, {"prompt": "Once", "completion": " upon"}) == Completion("Once", " upon")
    assert first(tmp_path, {"prompt": "", "completion": "All of it."}) == Completion("", "All of it.")
    assert first(tmp_path, {"text": "All of it."}) == Completion("", "All of it.")


@pytest.mark.parametrize(
    "row",
    [
        {"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [WORSE]},
        {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
        {"prompt": [USER], "chosen": "There.", "rejected": "Here."},
        {"chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
        {"prompt": "Where?", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]},
    ],
    ids=["OpenAI", "TRL", "seed", "TRL, implicit prompt", "UltraFeedback"],
)
def test_a_preference_is_the_same_in_every_form(row: Any, tmp_path: Path) -> None:
    file = write(tmp_path, row)
    (found,) = read_preferences(file, "training_file")
    assert [list(found.chosen.turns), list(found.rejected.turns)] == [TWO.turns, OTHER.turns]  # type: ignore[union-attr]
    wanted, unwanted = read_ratings(file, "training_file")
    assert (wanted, unwanted) == (Rating(found.chosen, True), Rating(found.rejected, False))


def test_a_preference_of_texts_is_text(tmp_path: Path) -> None:
    file = write(tmp_path, {"prompt": "Once", "chosen": " upon", "rejected": " more"})
    assert read_preferences(file, "training_file") == [
        Preference(Completion("Once", " upon"), Completion("Once", " more"))
    ]


def test_only_the_answer_of_a_preference_is_learnt(tmp_path: Path) -> None:
    row = {"prompt": [USER, ANSWER, USER], "chosen": "Yes.", "rejected": "No."}
    (found,) = read_preferences(write(tmp_path, row), "training_file")
    assert [turn.trained for turn in found.chosen.turns] == [False, False, False, True]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "completion": [ANSWER], "label": False},
        {"messages": [USER, ANSWER], "label": False},
        {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}], "label": False},
    ],
)
def test_a_rating_is_the_same_in_every_form(row: Any, tmp_path: Path) -> None:
    (found,) = read_ratings(write(tmp_path, row), "training_file")
    assert isinstance(found.answered, Conversation)
    assert (list(found.answered.turns), found.desirable) == (TWO.turns, False)


def test_calls_results_and_tools_are_as_a_template_is_given_them(tmp_path: Path) -> None:
    row = {"messages": [USER, CALLED, RESULT, ANSWER], "tools": TOOLS, "parallel_tool_calls": False}
    found = first(tmp_path, row)
    assert isinstance(found, Conversation)
    assert found.tools == tuple(TOOLS)
    assert [dict(turn.as_message()) for turn in found.turns] == [
        USER,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [CALL | {"function": {"name": "look", "arguments": {"at": "x"}}}],
        },
        RESULT | {"name": "look"},
        ANSWER,
    ]
    assert [turn.trained for turn in found.turns] == [False, True, False, True]


def test_the_older_form_of_calls_becomes_the_newer(tmp_path: Path) -> None:
    older = {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": '{"at": "x"}'}}
    result = {"role": "function", "name": "look", "content": "It is there."}
    found = first(tmp_path, {"messages": [USER, older, result, ANSWER], "functions": [LOOK]})
    assert isinstance(found, Conversation)
    assert found.tools == tuple(TOOLS)
    call, answer = found.turns[1], found.turns[2]
    assert (answer.role, answer.call_id, answer.called) == ("tool", call.calls[0]["id"], "look")
    assert call.calls[0]["function"] == {"name": "look", "arguments": {"at": "x"}}


def test_a_conversation_may_end_with_a_call(tmp_path: Path) -> None:
    found = first(tmp_path, {"messages": [USER, CALLED], "tools": TOOLS})
    assert isinstance(found, Conversation)
    assert found.turns[-1].trained


def chat(*messages: Any, **others: Any) -> dict[str, Any]:
    return {"messages": list(messages), **others}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (chat(USER, CALLED, ANSWER), "messages[2]: the call 'call_0' before it is not answered"),
        (chat(USER, CALLED, USER, ANSWER), "messages[2]: the call 'call_0' before it is not answered"),
        (chat(USER, RESULT, ANSWER), "messages[1]: it answers the call 'call_0', which the assistant's message before"),
        (chat(USER, CALLED, RESULT, RESULT, ANSWER), "messages[3]: it answers the call 'call_0'"),
        (chat(USER, CALLED, {"role": "tool", "content": "x"}, ANSWER), "messages[2]: it answers no call"),
        (chat(USER, {"role": "function", "name": "look", "content": "x"}, ANSWER), "messages[1]: it answers no call"),
        (chat(USER, {**CALLED, "tool_calls": [CALL, CALL]}), "two calls have the id 'call_0'"),
        (chat(USER, {**CALLED, "tool_calls": "look"}), "tool_calls is not a list"),
        (chat(USER, {**CALLED, "tool_calls": [{**CALL, "id": None}]}), "tool_calls must be"),
        (chat({**USER, "tool_calls": [CALL]}, ANSWER), "only messages of the role 'assistant' call"),
        (
            chat(USER, {**CALLED, "tool_calls": [{**CALL, "function": {"name": "look", "arguments": "{at"}}]}),
            "arguments of the call of 'look' are not a JSON object: '{at'",
        ),
        (
            chat(USER, {**CALLED, "tool_calls": [{**CALL, "function": {"name": "look", "arguments": {"at": 1}}}]}),
            "as a string of JSON",
        ),
        (chat(USER, {"role": "assistant", "content": [{"type": "image_url"}]}), "a part of type 'image_url'"),
        (chat(USER, ANSWER | {"audio": {"id": "x"}}), "audio cannot be trained on"),
        (chat(USER, ANSWER, tools={}) | {"tools": {"a": 1}}, "'tools' that are not a list"),
        (chat(USER, ANSWER, functions=3), "'functions' that are not a list"),
        (chat(USER, ANSWER, tools=[{"type": "web_search"}]), 'tools[0]: it must be {"type": "function"'),
        (chat(USER, ANSWER, tools=[{"type": "function", "function": {"name": "a b"}}]), "its name must be 1 to 64"),
        (chat(USER, ANSWER, tools=TOOLS * 2), "two tools of the same name"),
        (chat(USER, ANSWER, tools=TOOLS * 129), "at most 128"),
        (
            chat(USER, ANSWER, tools=[{"type": "function", "function": {"name": "a", "description": "\ud800"}}]),
            "JSON cannot hold it",
        ),
        ({"text": ["All of it."]}, "'text' that is a list of 1"),
        ({"text": " \n"}, "an empty 'text'"),
        ({"instruction": "a", "output": "b"}, "its keys are ['instruction', 'output']"),
        ({"prompt": "Once", "completion": [ANSWER]}, "'completion' is a list of 1: both must be strings"),
        ({"prompt": "Once", "completion": " "}, "an empty 'completion'"),
        ({"prompt": [USER], "completion": []}, "'completion' that is a list of 0"),
        ({"prompt": [USER], "completion": [USER]}, "completion[0]: it is not a message of the role 'assistant'"),
        ({"prompt": [USER, ANSWER], "completion": [ANSWER]}, "put it into 'completion'"),
        ({"prompt": 3, "completion": "x"}, "no list 'prompt'"),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "tool", "value": "b"}]}, "rewrite the row"),
        ({"conversations": [{"from": "king", "value": "a"}]}, "'from' is 'king'"),
        ({"conversations": "a"}, "no list 'conversations'"),
        ({"conversations": [3]}, "conversations[0]: it is not an object"),
    ],
)
def test_what_cannot_be_learnt_from_says_why(bad: Any, said: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, "supervised", bad)
    assert message.startswith("Line 1 of the training file ")
    assert said in message


PREFERENCE = {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (PREFERENCE | {"chosen": [USER, ANSWER]}, "'chosen' that is a list of 2"),
        (PREFERENCE | {"rejected": None}, "'rejected' that is missing"),
        (PREFERENCE | {"rejected": ""}, "an empty 'rejected'"),
        (PREFERENCE | {"chosen": [{**ANSWER, "weight": 0}]}, "weight 0 would leave nothing"),
        (PREFERENCE | {"prompt": "Where?"}, "'chosen' is a list of 1: both must be strings"),
        ({"chosen": "a", "rejected": "b"}, "not both whole conversations, and no prompt before"),
        ({"prompt": "Why?", "chosen": [USER, ANSWER], "rejected": [USER, WORSE]}, "a prompt that is not in 'chosen'"),
        ({"prompt": "Where?", "chosen": [USER, ANSWER], "rejected": "Here."}, "not both whole conversations"),
        ({"chosen": [], "rejected": []}, "no list 'chosen'"),
        ({"chosen": [USER, ANSWER], "rejected": [{**USER, "content": "?"}, WORSE]}, "differ before their last message"),
        ({"input": {"messages": [USER]}, "preferred_output": [ANSWER]}, "'non_preferred_output' that is missing"),
        ({"input": [USER], "preferred_output": [ANSWER], "non_preferred_output": [WORSE]}, "no 'input'"),
        (
            {"input": {"messages": []}, "preferred_output": [ANSWER], "non_preferred_output": [WORSE]},
            "no list 'input.messages'",
        ),
    ],
)
def test_a_preference_that_cannot_be_learnt_from_says_why(bad: Any, said: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, "dpo", bad)
    assert message.startswith("Line 1 of the training file ")
    assert said in message


@pytest.mark.parametrize(
    ("method", "row", "said"),
    [
        ("supervised", PREFERENCE, "Train it by dpo or kto, or write it as"),
        ("dpo", GOOD, "Train it by supervised, or write it as"),
        ("kto", GOOD, "Train it by supervised, or write it as"),
        ("supervised", GOOD | {"label": True}, "Train it by kto, or write it as"),
        ("dpo", GOOD | {"label": True}, "Train it by kto, or write it as"),
    ],
)
def test_a_method_takes_its_own_rows_only(method: Method, row: Any, said: str, tmp_path: Path) -> None:
    assert said in refusal(tmp_path, method, row)


def test_a_label_that_is_no_bool_is_an_error_where_there_is_a_completion(tmp_path: Path) -> None:
    said = refusal(tmp_path, "kto", {"prompt": [USER], "completion": [ANSWER], "label": 1})
    assert "has the label 1" in said


@pytest.mark.parametrize(
    ("method", "rows"),
    [
        ("supervised", [GOOD, {"prompt": "a", "completion": "b"}]),
        ("supervised", [GOOD, {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]),
        ("dpo", [PREFERENCE, {"input": {"messages": [USER]}, "preferred_output": [], "non_preferred_output": []}]),
        ("kto", [{"prompt": [USER], "completion": [ANSWER], "label": True}, PREFERENCE]),
        ("supervised", [{"prompt": "a", "completion": "b"}, {"prompt": [USER], "completion": [ANSWER]}]),
    ],
)
def test_a_file_holds_one_form(method: Method, rows: Sequence[Any], tmp_path: Path) -> None:
    said = refusal(tmp_path, method, rows[0], rows[0], rows[1])
    assert said.startswith("Line 3 of the training file is ")
    assert "but line 1 is" in said


def test_what_is_told_of_a_fault_is_short(tmp_path: Path) -> None:
    for bad in (
        chat({"role": "x" * 10**6, "content": "a"}),
        chat({"role": [[[[[[[[1]]]]]]]] * 1000, "content": "a"}),
        {"x" * 10**6: 1},
        {"prompt": [USER], "completion": [ANSWER], "label": "x" * 10**6},
    ):
        assert len(refusal(tmp_path, "kto" if "label" in bad else "supervised", bad)) < 500


def test_deep_rows_are_faults_and_no_failures(tmp_path: Path) -> None:
    deep: Any = {}
    for _ in range(400):
        deep = {"a": [deep]}
    assert "role is" in refusal(tmp_path, "supervised", chat({"role": deep, "content": "a"}))
    tools = [{"type": "function", "function": {"name": "a", "parameters": deep}}]
    assert isinstance(first(tmp_path, chat(USER, ANSWER, tools=tools)), Conversation)


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    """A fault in line 3 is told when it is reached, and not before."""
    stream = stream_dataset(write(tmp_path, GOOD, GOOD, {"messages": []}), "training_file", "supervised")
    assert [next(stream)[0], next(stream)[0]] == [1, 2]
    with pytest.raises(InvalidDataset, match="Line 3"):
        next(stream)


def test_the_seeds_own_files_are_read(tmp_path: Path) -> None:
    """The shapes of the seed's files, which TRL reads differently from one process to the next."""
    chosen = {"prompt": [{"role": "user", "content": "q"}], "chosen": "a\n", "rejected": "b"}
    (found,) = read_preferences(write(tmp_path, chosen), "training_file")
    assert isinstance(found.chosen, Conversation)
    assert found.chosen.turns[-1].content == "a\n"


def test_what_is_read_does_not_depend_on_the_process(tmp_path: Path) -> None:
    """TRL tells the seed's shape by the order of a set of strings, which differs from one process to the next."""
    rows = [{"prompt": [USER], "chosen": f"a{n}", "rejected": "b"} for n in range(5)]
    program = (
        "import sys, pathlib; from brie_trainer.data.dataset import read_preferences;"
        "print(read_preferences(pathlib.Path(sys.argv[1]), 'training_file'))"
    )
    command = [sys.executable, "-c", program, str(write(tmp_path, *rows))]
    told = {
        subprocess.check_output(command, env={**os.environ, "PYTHONHASHSEED": str(seed)}, text=True)
        for seed in range(5)
    }
    assert len(told) == 1
    assert next(iter(told)).count("Preference(") == 5
