"""The rules of order in OpenAI's streams, which no schema can say. It knows events as objects, not their schemas."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Part = tuple[str, Any]
"""An event's name, empty where it has none, and its data."""


def faults_of_order(operation: str, parts: Sequence[Part], is_done: bool, request: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the order of a whole stream's parts."""
    if operation == "post /responses":
        yield from _faults_of_responses(parts)
        return
    if not is_done:
        yield "the stream does not end in [DONE]"
    chunks = [told for _, told in parts]
    for field in ("id", "object", "created", "model"):
        if len({chunk[field] for chunk in chunks}) != 1:
            yield f"{field} is not the same in all parts"
    yield from _faults_of_usage(chunks, bool((request.get("stream_options") or {}).get("include_usage")))
    choices: dict[int, list[Any]] = defaultdict(list)
    for chunk in chunks:
        for choice in chunk["choices"]:
            choices[choice["index"]].append(choice)
    if set(choices) != set(range(_num_choices(request))):
        yield f"there are parts of the choices {sorted(choices)} of {_num_choices(request)}"
    for index, own in choices.items():
        yield from (f"choice {index}: {fault}" for fault in _faults_of_choice(own))


def _num_choices(request: Mapping[str, Any]) -> int:
    prompt = request.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    return prompts * (request.get("n") or 1)


def _faults_of_choice(own: Sequence[Any]) -> Iterator[str]:
    """The role comes once and first, the reason for the end once and last."""
    finishes = [choice["finish_reason"] for choice in own]
    if finishes[-1] is None or any(finishes[:-1]):
        yield f"its finish_reason is not in its last part alone: {finishes}"
    if "delta" not in own[0]:
        return
    roles = [choice["delta"].get("role") for choice in own]
    if roles[0] != "assistant" or any(roles[1:]):
        yield f"its role is not in its first part alone: {roles}"
    begun: set[int] = set()
    for call in (call for choice in own for call in choice["delta"].get("tool_calls") or ()):
        if (call["index"] in begun) == ("id" in call):
            yield f"the id of tool call {call['index']} is not in its first part alone"
        begun.add(call["index"])


def _faults_of_usage(chunks: Sequence[Any], is_wanted: bool) -> Iterator[str]:
    """Null in all parts but one, which is the last and has no choices; or in none."""
    if not is_wanted:
        if any("usage" in chunk for chunk in chunks):
            yield "usage that was not asked for"
        return
    *before, last = chunks
    if last["choices"] or not last.get("usage"):
        yield "the last part is not one of usage without choices"
    if any(chunk.get("usage", 0) is not None for chunk in before):
        yield "usage is not null in every part before the last"


def _faults_of_responses(parts: Sequence[Part]) -> Iterator[str]:
    """Events have the name of their type and count from 0; the first begins the response, the last ends it."""
    types = [told["type"] for _, told in parts]
    if types != [name for name, _ in parts]:
        yield "an event is not named for its type"
    if [told["sequence_number"] for _, told in parts] != list(range(len(parts))):
        yield "sequence_number does not count from 0"
    if types[:1] != ["response.created"] or types[-1] not in _ENDS or sum(each in _ENDS for each in types) != 1:
        yield f"it begins with {types[:1]} and ends with {types[-1:]}"


_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})
