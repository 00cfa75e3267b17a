"""Conversations to token ids and labels: only what the assistant says is learnt, each stop token exactly once.

It knows the tokenizer and its chat template, and no framework. What the trainer sees before an answer is, token by
token, what the server will give the model there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from brie_core.errors import InvalidDataset, InvalidRequest
from brie_core.text.tokenizer import Tokenizer
from brie_trainer.dataset import Conversation, FileParam

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence to train on; `labels` has IGNORED where nothing is learnt, and the length of `input_ids`."""

    input_ids: list[int]
    labels: list[int]

    @property
    def num_trained(self) -> int:
        """Tokens that the loss counts."""
        return sum(label != IGNORED for label in self.labels)

    def truncated(self, max_length: int) -> "Example":
        """The beginning, at most `max_length` tokens."""
        return Example(self.input_ids[:max_length], self.labels[:max_length])


@dataclass(slots=True)
class TokenCounts:
    """What a set of examples holds; a report, so it is filled as they are made."""

    examples: int = 0
    tokens: int = 0
    trained: int = 0
    truncated: int = 0
    """Tokens cut off by the maximum length."""
    dropped: int = 0
    """Examples of which nothing was left to learn."""
    longest: int = field(default=0)


def build_examples(
    conversations: Sequence[Conversation], tokenizer: Tokenizer, max_length: int
) -> tuple[list[Example], TokenCounts]:
    """Tokenise every conversation, cut to `max_length`; examples with nothing left to learn are dropped and counted."""
    counts, kept = TokenCounts(), []
    for whole in (example for turns in conversations for example in tokenise(turns, tokenizer)):
        example = whole.truncated(max_length)
        counts.truncated += len(whole.input_ids) - len(example.input_ids)
        if not example.num_trained:
            counts.dropped += 1
            continue
        counts.examples += 1
        counts.tokens += len(example.input_ids)
        counts.trained += example.num_trained
        counts.longest = max(counts.longest, len(example.input_ids))
        kept.append(example)
    return kept, counts


def check_renders(conversations: Sequence[Conversation], tokenizer: Tokenizer, param: FileParam) -> None:
    """Tokenise every conversation; raises InvalidDataset with the number of the first row that cannot be."""
    for number, turns in enumerate(conversations, start=1):
        try:
            tokenise(turns, tokenizer)
        except InvalidRequest as error:
            message = f"Row {number} of the {param.replace('_', ' ')} cannot be trained on: {error.message}"
            raise InvalidDataset(message, param=param, code=f"invalid_{param}") from error


def tokenise(turns: Conversation, tokenizer: Tokenizer) -> list[Example]:
    """One example of the whole conversation, if every answer in it follows the very tokens the server would give.

    Else one example per trained turn: a template may rewrite earlier turns, and an answer that begins with white space
    would merge with the end of its prompt.
    """
    trained = [number for number, turn in enumerate(turns) if turn.trained]
    splits = [_split(turns, number, tokenizer) for number in trained]
    whole = tokenizer.render([turn.as_message() for turn in turns], add_generation_prompt=False)
    ids, offsets = tokenizer.encode_with_offsets(whole)
    labels = [IGNORED] * len(ids)
    for before, answer in splits:
        prompt = tokenizer.encode(before)
        inside = [at for at, (begin, _) in enumerate(offsets) if len(before) <= begin < len(before) + len(answer)]
        if not whole.startswith(before + answer) or ids[: len(prompt)] != prompt or inside[0] != len(prompt):
            return [_alone(*split, tokenizer) for split in splits]
        for at in inside[: _length_with_stop([ids[at] for at in inside], tokenizer)]:
            labels[at] = ids[at]
    return [Example(ids, labels)]


def _split(turns: Conversation, number: int, tokenizer: Tokenizer) -> tuple[str, str]:
    """The prompt of an answer as the server renders it, and the answer with what the template puts behind it."""
    messages = [turn.as_message() for turn in turns[: number + 1]]
    before = tokenizer.render(messages[:-1], add_generation_prompt=True)
    through = tokenizer.render(messages, add_generation_prompt=False)
    if not through.startswith(before):
        raise InvalidDataset("The model's chat template does not continue its own generation prompt.")
    return before, through[len(before) :]


def _alone(before: str, answer: str, tokenizer: Tokenizer) -> Example:
    prompt, ids = tokenizer.encode(before), tokenizer.encode(answer)
    ids = ids[: _length_with_stop(ids, tokenizer)]
    return Example(prompt + ids, [IGNORED] * len(prompt) + ids)


def _length_with_stop(ids: Sequence[int], tokenizer: Tokenizer) -> int:
    """How many tokens up to and including the stop token; what follows it is the template's, not the assistant's."""
    stop = next((at for at, token in enumerate(ids) if token in tokenizer.stop_ids), None)
    if stop is None:
        raise InvalidDataset("The model's chat template ends an answer without a stop token: it would never stop.")
    return stop + 1


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt."""

    chosen: Example
    rejected: Example


@dataclass(frozen=True, slots=True)
class Rated:
    """One answer, and whether it is wanted."""

    example: Example
    desirable: bool
