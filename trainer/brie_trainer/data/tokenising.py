"""One row to token ids and labels, as the server would have the model read and write it. It knows no file.

What stands before an answer is what the server renders there; the answer is what the model would have to write, up to
and with the token at which the server stops.
"""

import sys
from bisect import bisect_left
from collections.abc import Sequence

from brie_core.errors import InvalidDataset
from brie_core.text.tokenizer import Tokenizer
from brie_core.text.tool_rendering import render_with_tools
from brie_trainer.data.examples import IGNORED, Example
from brie_trainer.data.rows import Completion, Conversation, Learnable, Turn


def tokenise(row: Learnable, tokenizer: Tokenizer, max_length: int = sys.maxsize) -> list[Example]:
    """One example of the whole conversation, if every answer in it follows the very tokens the server would give.

    Else one example per trained turn: a template may rewrite earlier turns, and an answer that begins with white space
    would merge with the end of its prompt. Examples are not cut; but nothing is looked for beyond `max_length` tokens,
    and an answer that would begin there is an example without tokens.
    """
    if isinstance(row, Completion):
        return [_continued(row, tokenizer)]
    trained = [number for number, turn in enumerate(row.turns) if turn.trained]
    whole = None if len(trained) == 1 else _whole(row, trained, tokenizer, max_length)
    return _each_alone(row, trained, tokenizer, max_length) if whole is None else [whole]


def _whole(row: Conversation, trained: Sequence[int], tokenizer: Tokenizer, max_length: int) -> Example | None:
    """The conversation as it is rendered once; None if an answer would not stand in it as it is served."""
    text = _rendered(row.turns, row, tokenizer, opens=False)
    ids, offsets = tokenizer.encode_with_offsets(text)
    labels = [IGNORED] * len(ids)
    end: int | None = 0
    for number in trained:
        before, answer = _split(row, number, tokenizer)
        start = _place(before, ids, offsets, tokenizer) if text.startswith(before + answer) else None
        end = None if start is None else _stop(ids, start, tokenizer)
        if start is None or end is None or offsets[end - 1][0] >= len(before) + len(answer):
            return None
        labels[start:end] = ids[start:end]
        if end >= max_length:
            return Example(ids, labels)
    return Example(ids[:end], labels[:end])


def _place(before: str, ids: Sequence[int], offsets: Sequence[tuple[int, int]], tokenizer: Tokenizer) -> int | None:
    """How many tokens `before`, with which a text begins, takes there; None if it alone is tokenised otherwise.

    A special token parts what is before it from what is behind, so only what follows the last one is looked at.
    """
    place = bisect_left(offsets, len(before), key=lambda offset: offset[0])
    last = next((at for at in reversed(range(place)) if ids[at] in tokenizer.special_ids), 0)
    begin = offsets[last][0] if last else 0
    return place if tokenizer.encode(before[begin:]) == ids[last:place] else None


def _each_alone(row: Conversation, trained: Sequence[int], tokenizer: Tokenizer, max_length: int) -> list[Example]:
    examples: list[Example] = []
    for number in trained:
        if examples and examples[-1].num_prompt >= max_length:
            break
        examples.append(_alone(*_split(row, number, tokenizer), tokenizer))
    return examples + [Example([], [])] * (len(trained) - len(examples))


def tokenise_answer(row: Learnable, tokenizer: Tokenizer) -> Example:
    """The last answer alone behind its prompt, whose tokens do not depend on the answer."""
    if isinstance(row, Completion):
        return _continued(row, tokenizer)
    return _alone(*_split(row, len(row.turns) - 1, tokenizer), tokenizer)


def _split(row: Conversation, number: int, tokenizer: Tokenizer) -> tuple[str, str]:
    """The prompt of an answer as the server renders it, and the answer with what the template puts behind it."""
    turns = row.turns[: number + 1]
    before, answer = _parted(turns, row, tokenizer)
    if answer is None:  # Mistral's templates show the system message at the last question, and not before an answer
        _, answer = _parted([turn for turn in turns if turn.role != "system"], row, tokenizer)
    if answer is None:
        raise InvalidDataset("The model's chat template does not continue its own generation prompt.")
    return before, answer


def _parted(turns: Sequence[Turn], row: Conversation, tokenizer: Tokenizer) -> tuple[str, str | None]:
    """What asks for the last turn, and how that is written; None if what is before it then looks otherwise."""
    before = _rendered(turns[:-1], row, tokenizer, opens=True)
    through = _rendered(turns, row, tokenizer, opens=False)
    return before, through[len(before) :] if through.startswith(before) else None


def _rendered(turns: Sequence[Turn], row: Conversation, tokenizer: Tokenizer, *, opens: bool) -> str:
    messages = [turn.as_message() for turn in turns]
    return render_with_tools(tokenizer, messages, row.tools, add_generation_prompt=opens)


def _alone(before: str, answer: str, tokenizer: Tokenizer) -> Example:
    prompt, ids = tokenizer.encode_answer(before, answer)
    end = _stop(ids, 0, tokenizer)
    if end is None:
        raise InvalidDataset("The model's chat template ends an answer without a stop token: it would never stop.")
    return _example(prompt, ids[:end])


def _continued(row: Completion, tokenizer: Tokenizer) -> Example:
    """As /v1/completions: the prompt as it is, and at the end of the text the token that ends one."""
    prompt = tokenizer.encode(row.prompt, add_special_tokens=True)
    _, ids = tokenizer.encode_answer(row.prompt, row.text)
    end = _stop(ids, 0, tokenizer)
    if end is not None:
        return _example(prompt, ids[:end])
    if tokenizer.eos_id is None:
        raise InvalidDataset("The model has no token that ends a text: what it learnt would never stop.")
    return _example(prompt, [*ids, tokenizer.eos_id])


def _example(prompt: list[int], answer: list[int]) -> Example:
    """A first token that nothing stands before cannot be predicted."""
    return Example(prompt + answer, [IGNORED] * max(1, len(prompt)) + answer[0 if prompt else 1 :])


def _stop(ids: Sequence[int], start: int, tokenizer: Tokenizer) -> int | None:
    """Behind the first stop token from `start` on; what follows it is the template's, not the assistant's."""
    return next((at + 1 for at in range(start, len(ids)) if ids[at] in tokenizer.stop_ids), None)
