"""Rows of a prompt with answers apart: completions, preferences, ratings, in each form they come in. It knows no file.

A prompt that is a string is text and no conversation: it is trained as /v1/completions serves it, without a template.
A fault is a ValueError whose text goes on after "Line 7 of the training file".
"""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from brie_core.text.sharegpt import messages_of
from brie_trainer.data.chat_rows import checked_text, conversation_of, turns_of
from brie_trainer.data.chat_tools import tools_of
from brie_trainer.data.rows import Completion, Conversation, Learnable, Preference, Rating, Turn


def completion_of(row: Mapping[str, Any]) -> Learnable:
    """{"prompt", "completion"}, of two strings or two lists of messages."""
    return _answered(row, row.get("prompt"), "prompt", "completion")


def text_of_row(row: Mapping[str, Any]) -> Completion:
    """{"text"}, all of which is learnt."""
    given = row.get("text")
    if not isinstance(given, str):
        raise ValueError(f"has 'text' that is {_kind(given)}: it must be a string.")
    return Completion("", _checked(given, "text"))


def preference_of(row: Mapping[str, Any]) -> Preference:
    """{"prompt", "chosen", "rejected"}: strings, or messages with answers that are strings or messages.

    Without a prompt, or with one that is only the question in words, chosen and rejected are whole conversations, which
    differ in their last message.
    """
    prompt = row.get("prompt")
    if "prompt" not in row or (isinstance(prompt, str) and _is_conversation(row.get("chosen"))):
        return _whole(row, question=prompt)
    return Preference(_answered(row, prompt, "prompt", "chosen"), _answered(row, prompt, "prompt", "rejected"))


def openai_preference_of(row: Mapping[str, Any]) -> Preference:
    """{"input": {"messages", "tools"}, "preferred_output": [...], "non_preferred_output": [...]}."""
    given = row.get("input")
    if not isinstance(given, Mapping):
        raise ValueError("has no 'input': it must be {\"messages\": [...]}.")
    merged = {**given, **{name: row.get(name) for name in ("preferred_output", "non_preferred_output")}}
    prompt = given.get("messages")
    chosen = _answered(merged, prompt, "input.messages", "preferred_output")
    return Preference(chosen, _answered(merged, prompt, "input.messages", "non_preferred_output"))


def rating_of(row: Mapping[str, Any]) -> Rating:
    """{"prompt", "completion", "label"}, or a conversation with "label", which is about its last answer."""
    label = row.get("label")
    if not isinstance(label, bool):
        raise ValueError(
            f"has the label {reprlib.repr(label)}: it must be true for an answer that is wanted, false for one not."
        )
    if "prompt" in row:
        return Rating(completion_of(row), label)
    messages = row["messages"] if "messages" in row else messages_of(row.get("conversations"))
    turns = turns_of(messages, "messages" if "messages" in row else "conversations")
    return Rating(_last_alone(turns, row), label)


def ratings_of(preference: Preference) -> tuple[Rating, Rating]:
    """A preference as two ratings."""
    return Rating(preference.chosen, True), Rating(preference.rejected, False)  # noqa: FBT003  # a label


def sharegpt_of(row: Mapping[str, Any]) -> Conversation:
    """{"conversations": [{"from", "value"}, ...]}."""
    return conversation_of({**row, "messages": messages_of(row.get("conversations"))})


def _answered(row: Mapping[str, Any], prompt: Any, called: str, answer: str) -> Learnable:
    """One prompt with one of the answers that the row gives it."""
    given = row.get(answer)
    if isinstance(prompt, str):
        if not isinstance(given, str):
            raise ValueError(f"has a prompt that is a string, but {answer!r} is {_kind(given)}: both must be strings.")
        return Completion(_checked(prompt, called, may_be_empty=True), _checked(given, answer))
    turns = turns_of(prompt, called)
    if turns[-1].role == "assistant":
        raise ValueError(f"has a prompt that ends with an assistant message: put it into {answer!r}.")
    last = _answer(given, answer)
    return _last_alone(turns_of([*prompt, last], called), row)


def _answer(given: Any, name: str) -> Any:
    """The one message of the assistant's that an answer is."""
    if isinstance(given, str):
        return {"role": "assistant", "content": _checked(given, name)}
    if not isinstance(given, list) or len(given) != 1:
        raise ValueError(
            f"has {name!r} that is {_kind(given)}: it must be a list of one assistant message, or a string."
        )
    if not isinstance(given[0], Mapping) or given[0].get("role") != "assistant":
        raise ValueError(f"has a fault in {name}[0]: it is not a message of the role 'assistant'.")
    if given[0].get("weight", 1) == 0:
        raise ValueError(f"has a fault in {name}[0]: weight 0 would leave nothing to learn.")
    return given[0]


def _is_conversation(given: Any) -> bool:
    return isinstance(given, list) and len(given) > 1


def _whole(row: Mapping[str, Any], question: str | None) -> Preference:
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise ValueError("has 'chosen' and 'rejected' that are not both whole conversations, and no prompt before.")
    if chosen[:-1] != rejected[:-1]:
        raise ValueError(
            "has conversations as 'chosen' and 'rejected' that differ before their last message: "
            "two answers can only be compared after one prompt."
        )
    better, worse = (_last_alone(turns_of(row[name], name), row) for name in ("chosen", "rejected"))
    if question is not None and all(turn.content.strip() != question.strip() for turn in better.turns):
        raise ValueError("has a prompt that is not in 'chosen': leave it out, or write the answers alone.")
    return Preference(better, worse)


def _last_alone(turns: Sequence[Turn], row: Mapping[str, Any]) -> Conversation:
    """The conversation of which only the last answer is learnt."""
    last = turns[-1]
    if last.role != "assistant":
        raise ValueError(f"ends with a message of role {last.role!r}: the last message must be the assistant's.")
    told = [replace(turn, trained=turn is last) for turn in turns]
    return Conversation(told, tools_of(row))


def _checked(text: str, name: str, *, may_be_empty: bool = False) -> str:
    if not text.strip() and not may_be_empty:
        raise ValueError(f"has an empty {name!r}.")
    try:
        return checked_text(text)
    except ValueError as error:
        raise ValueError(f"has a fault in {name!r}: {error}") from error


def _kind(given: Any) -> str:
    if isinstance(given, list):
        return f"a list of {len(given)}"
    return "missing" if given is None else f"of the type {type(given).__name__}"
