"""One row to token ids and labels, as the server would have the model read and write it. It knows no file.

What stands before an answer is what the server renders there; the answer is what the model would have to write, up to
and with the token at which the server stops.
"""

from collections.abc import Sequence

from brie_core.errors import InvalidDataset
from brie_core.text.tokenizer import Tokenizer
from brie_core.text.tool_rendering import render_with_tools
from brie_trainer.examples import IGNORED, Example
from brie_trainer.rows import Completion, Conversation, Learnable, Turn


def tokenise(row: Learnable, tokenizer: Tokenizer) -> list[Example]:
    """One example of the whole conversation, if every answer in it follows the very tokens the server would give.

    Else one example per trained turn: a template may rewrite earlier turns, and an answer that begins with white space
    would merge with the end of its prompt.
    """
    if isinstance(row, Completion):
        return [_continued(row, tokenizer)]
    splits = [_split(row, number, tokenizer) for number, turn in enumerate(row.turns) if turn.trained]
    if len(splits) == 1:
        return [_alone(*splits[0], tokenizer)]
    whole = _rendered(row.turns, row, tokenizer, opens=False)
    ids, offsets = tokenizer.encode_with_offsets(whole)
    labels = [IGNORED] * len(ids)
    last = 0
    for before, answer in splits:
        prompt = tokenizer.encode(before)
        start, end = len(prompt), _stop(ids, len(prompt), tokenizer)
        in_place = whole.startswith(before + answer) and ids[:start] == prompt
        if not in_place or end is None or offsets[end - 1][0] >= len(before) + len(answer):
            return [_alone(*split, tokenizer) for split in splits]
        labels[start:end] = ids[start:end]
        last = end
    return [Example(ids[:last], labels[:last])]


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
