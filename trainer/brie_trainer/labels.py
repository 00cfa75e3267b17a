"""Conversations to token ids and labels: only what the assistant says is learnt, each stop token exactly once.

It knows the tokenizer and its chat template, and no framework. What the trainer sees before an answer is, token by
token, what the server will give the model there.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from brie_core.errors import InvalidDataset
from brie_core.text.tokenizer import Tokenizer
from brie_trainer.dataset import Conversation

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


def tokenise(turns: Conversation, tokenizer: Tokenizer) -> list[Example]:
    """One example of the whole conversation; or one per trained turn, when the template rewrites earlier turns."""
    messages = [turn.as_message() for turn in turns]
    whole = tokenizer.render(messages, add_generation_prompt=False)
    spans, trained = [], [number for number, turn in enumerate(turns) if turn.trained]
    for number in trained:
        before = tokenizer.render(messages[:number], add_generation_prompt=True)
        through = tokenizer.render(messages[: number + 1], add_generation_prompt=False)
        if not through.startswith(before):
            raise InvalidDataset("The model's chat template does not continue its own generation prompt.")
        if not whole.startswith(through):
            return [_example(*_last_turn(turns, number, tokenizer), tokenizer) for number in trained]
        spans.append((len(before), len(through)))
    return [_example(whole, spans, tokenizer)]


def _last_turn(turns: Conversation, number: int, tokenizer: Tokenizer) -> tuple[str, list[tuple[int, int]]]:
    messages = [turn.as_message() for turn in turns[: number + 1]]
    before = tokenizer.render(messages[:-1], add_generation_prompt=True)
    through = tokenizer.render(messages, add_generation_prompt=False)
    return through, [(len(before), len(through))]


def _example(text: str, spans: list[tuple[int, int]], tokenizer: Tokenizer) -> Example:
    """Label the tokens of each span up to and including its stop token; what follows it is the template's."""
    ids, offsets = tokenizer.encode_with_offsets(text)
    labels = [IGNORED] * len(ids)
    for start, end in spans:
        inside = [at for at, (begin, _) in enumerate(offsets) if start <= begin < end]
        stop = next((at for at in inside if ids[at] in tokenizer.stop_ids), None)
        if stop is None:
            raise InvalidDataset("The model's chat template ends an answer without a stop token: it would never stop.")
        for at in inside[: stop - inside[0] + 1]:
            labels[at] = ids[at]
    return Example(ids, labels)
