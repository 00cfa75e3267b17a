"""What candidates are asked: prompts and held-out examples, read from files. It asks nobody.

Held-out rows become tokens and labels by `brie_trainer.data.labels`, the very function by which training makes them:
the prompt is token by token what the server gives the model, and only what the assistant says is labelled, with its
stop token.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from brie_core.errors import InvalidRequest
from brie_core.jsonl import read_rows
from brie_core.text.tokenizer import Tokenizer
from brie_trainer.data.dataset import read_conversations
from brie_trainer.data.labels import IGNORED, Example, tokenise
from brie_trainer.data.rows import Conversation, Learnable, Turn
from brie_trainer.evaluation.contract import Candidate, HeldOut, Job, Prompts

HELD_OUT_THEME = "held-out"
Message = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation up to where the answer begins."""

    id: str
    theme: str
    messages: Sequence[Message]
    reference: str | None = None

    @property
    def cluster(self) -> str:
        """The same for the same question, whatever its id."""
        return _digest([dict(message) for message in self.messages])

    @property
    def shown(self) -> str:
        """For readers: the last message alone, or all with their roles."""
        if len(self.messages) == 1:
            return self.messages[0]["content"]
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutExample:
    """A held-out sequence with what is scored of it."""

    id: str
    cluster: str
    input_ids: Sequence[int]
    labels: Sequence[int]
    num_bytes: int
    """Of the labelled tokens' text, in UTF-8; a stop token is no text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """All that is asked."""

    prompts: Sequence[Prompt]
    examples: Mapping[str, Sequence[HeldOutExample]]
    """By the digest of the tokenizer that made them."""
    tokenizers: Mapping[str, str]
    """Each candidate's tokenizer, by digest; one that has none is missing."""
    first_prompts: Mapping[str, tuple[Sequence[Message], Sequence[int]]]
    """By tokenizer: a conversation, and the tokens that a server must make of it."""
    held_out_sha256: str | None
    held_out_rows: int
    held_out_skipped: int
    prompts_sha256: str | None


def read_material(job: Job) -> Material:
    """Raises InvalidRequest or InvalidDataset for files that cannot be asked from."""
    rows = [] if job.held_out is None else held_out_rows(job.held_out)
    prompts, skipped = [], 0
    if job.prompts is not None:
        own = list(read_prompts(prompts_file(job.prompts)))
        prompts = limited(_of_themes(own, job.prompts.themes), job.prompts.limit)
        from_rows = [held_out_prompt(number, row) for number, row in enumerate(rows, start=1)]
        plain = [each for each in from_rows if each is not None]
        skipped = len(from_rows) - len(plain) if job.prompts.from_held_out else 0
        prompts += plain[: job.prompts.from_held_out]
    scored = [each for each in job.candidates if job.held_out is not None and each.tokenizer is not None]
    tokenizers = {each.name: Tokenizer(Path(each.tokenizer or "")) for each in scored}
    by_digest = {_of_text(tokenizer): tokenizer for tokenizer in tokenizers.values()}
    limit = None if job.held_out is None else job.held_out.max_length
    return Material(
        prompts=prompts,
        examples={digest: held_out_examples(rows, each, limit) for digest, each in by_digest.items()},
        tokenizers={name: _of_text(tokenizer) for name, tokenizer in tokenizers.items()},
        first_prompts={digest: first for digest, each in by_digest.items() if (first := _first_prompt(rows, each))},
        held_out_sha256=None if job.held_out is None else _sha256(Path(job.held_out.file)),
        held_out_rows=len(rows),
        held_out_skipped=skipped,
        prompts_sha256=None if job.prompts is None else _sha256(prompts_file(job.prompts)),
    )


def prompts_file(prompts: Prompts) -> Path:
    """The given one, or the project's own."""
    own = Path(str(files("brie_trainer.evaluation").joinpath("prompts.jsonl")))
    return own if prompts.file is None else Path(prompts.file)


def read_prompts(file: Path) -> Iterator[Prompt]:
    """Each line; InvalidRequest names the first that is none."""
    ids = set[str]()
    for number, row in read_rows(file, param="prompts.file"):
        prompt = _prompt(number, row)
        if prompt.id in ids:
            raise _faulty(number, f"has the id {prompt.id!r}, which an earlier line has")
        ids.add(prompt.id)
        yield prompt
    if not ids:
        raise InvalidRequest("The prompts file has no rows.", param="prompts.file")


def held_out_rows(held_out: HeldOut) -> list[Learnable]:
    """Rows as training reads them."""
    return list(islice(read_conversations(Path(held_out.file), "validation_file"), held_out.limit))


def held_out_examples(rows: Sequence[Learnable], tokenizer: Tokenizer, limit: int | None) -> list[HeldOutExample]:
    """Every row by the labels of training; an example of which the limit leaves nothing is left out, as there."""
    made = []
    for number, row in enumerate(rows, start=1):
        for part, whole in enumerate(tokenise(row, tokenizer)):
            example = whole if limit is None else whole.truncated(limit)
            if example.num_trained:
                name = f"{number}" if part == 0 else f"{number}.{part}"
                made.append(_held_out(name, row, example, tokenizer))
    return made


def held_out_prompt(number: int, row: Learnable) -> Prompt | None:
    """The conversation before its last answer, which is the reference; None for rows with tools, and plain texts."""
    if not isinstance(row, Conversation) or not _is_plain(row):
        return None
    *before, last = row.turns
    return Prompt(id=f"held-out-{number}", theme=HELD_OUT_THEME, messages=_messages(before), reference=last.content)


def limited(prompts: Iterable[Prompt], limit: int | None) -> list[Prompt]:
    """At most so many of each theme, the first ones."""
    seen: dict[str, int] = {}
    kept = []
    for prompt in prompts:
        seen[prompt.theme] = seen.get(prompt.theme, 0) + 1
        if limit is None or seen[prompt.theme] <= limit:
            kept.append(prompt)
    return kept


def examples_of(material: Material, candidate: Candidate) -> Sequence[HeldOutExample]:
    """What is scored by this candidate."""
    digest = material.tokenizers.get(candidate.name)
    return () if digest is None else material.examples[digest]


def _held_out(name: str, row: Learnable, example: Example, tokenizer: Tokenizer) -> HeldOutExample:
    spoken = [label for label in example.labels if label != IGNORED and label not in tokenizer.special_ids]
    return HeldOutExample(
        id=name,
        cluster=_question(row),
        input_ids=example.input_ids,
        labels=example.labels,
        num_bytes=len(tokenizer.decode(spoken).encode()),
    )


def _question(row: Learnable) -> str:
    """What stands before the first answer that is scored: rows that answer the same question are no two witnesses."""
    if not isinstance(row, Conversation):
        return _digest(row.prompt or row.text)
    first = next(number for number, turn in enumerate(row.turns) if turn.trained)
    return _digest([[turn.role, turn.content] for turn in row.turns[:first]])


def _first_prompt(rows: Sequence[Learnable], tokenizer: Tokenizer) -> tuple[Sequence[Message], Sequence[int]] | None:
    row = next((each for each in rows if isinstance(each, Conversation) and _is_plain(each)), None)
    if row is None:
        return None
    first = next(number for number, turn in enumerate(row.turns) if turn.trained)
    example = tokenise(row, tokenizer)[0]
    return _messages(row.turns[:first]), example.input_ids[: example.num_prompt]


def _is_plain(row: Conversation) -> bool:
    return not row.tools and not any(turn.calls or turn.call_id for turn in row.turns)


def _messages(turns: Sequence[Turn]) -> list[Message]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


def _of_themes(prompts: Sequence[Prompt], themes: Sequence[str] | None) -> list[Prompt]:
    known = list(dict.fromkeys(prompt.theme for prompt in prompts))
    if unknown := [theme for theme in themes or () if theme not in known]:
        raise InvalidRequest(
            f"There is no theme {unknown[0]!r} among the prompts, but {', '.join(known)}.", param="prompts.themes"
        )
    return [prompt for prompt in prompts if themes is None or prompt.theme in themes]


def _prompt(number: int, row: Mapping[str, Any]) -> Prompt:
    text, messages = row.get("prompt"), row.get("messages")
    if (text is None) == (messages is None):
        raise _faulty(number, "must have either 'prompt' or 'messages'")
    if messages is None:
        messages = [{"role": "user", "content": text}]
    if not isinstance(messages, list) or not messages or not all(_is_message(each) for each in messages):
        raise _faulty(number, "must hold texts: messages with role (system, user or assistant) and content")
    if messages[-1]["role"] != "user":
        raise _faulty(number, "must end with a message of the role user, which is what is answered")
    theme, reference = row.get("theme", "all"), row.get("reference")
    if not isinstance(theme, str) or not (reference is None or isinstance(reference, str)):
        raise _faulty(number, "has a theme or a reference that is no text")
    return Prompt(id=str(row.get("id", number)), theme=theme, messages=messages, reference=reference)


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"role", "content"}:
        return False
    content = value["content"]
    return value["role"] in ("system", "user", "assistant") and isinstance(content, str) and bool(content)


def _faulty(number: int, what: str) -> InvalidRequest:
    return InvalidRequest(f"Line {number} of the prompts file {what}.", param="prompts.file")


def _of_text(tokenizer: Tokenizer) -> str:
    """Tokens and template: what decides of what a loss is a mean."""
    return _digest([tokenizer.digest, tokenizer.template_digest])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
