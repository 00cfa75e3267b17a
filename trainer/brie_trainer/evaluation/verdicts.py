"""Blind comparisons: how two answers are shown to a judge, and what its verdict says. It knows no server and no figure.

Which answer is shown first, and whether the first one is called A or B, is drawn for each pair of answers. Each pair is
judged twice with the places exchanged and the names left where they are: so in each pair both answers stand in both
places and under both names, what a judge gives to a place or to a name cancels out, and over pairs the two can be told
apart.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from brie_trainer.evaluation.contract import CRITERIA

Result = Literal["win", "loss", "tie"]
TIE = "tie"
_LABELS = ("A", "B")
_FENCED = re.compile(r"```(?:json)?\n(.*)\n```", re.DOTALL)
_ASKED: Mapping[str, str] = {
    "relevance": "it answers what was asked, and keeps to it",
    "correctness": "what it says is true, and its reasoning sound",
    "depth": "it goes beyond what is obvious: distinctions, reasons, examples that carry weight",
    "clarity": "it is ordered, and easy to follow",
    "style": "its prose is good: precise, alive, free of filler and repetition",
}


@dataclass(frozen=True, slots=True)
class Showing:
    """How one pair is shown once."""

    first: Literal["candidate", "against"]
    labels: tuple[str, str]
    """What the first and the second shown are called."""

    @property
    def candidate_label(self) -> str:
        """What the candidate's answer is called."""
        return self.labels[0 if self.first == "candidate" else 1]

    def as_json(self) -> dict[str, Any]:
        """For the row."""
        return {"first": self.first, "labels": list(self.labels)}

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Showing":
        """From a row."""
        one, other = data["labels"]
        return cls(data["first"], (one, other))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge said, by the labels it was shown, or TIE."""

    overall: str
    criteria: Mapping[str, str]

    def choice(self, of: str) -> str:
        """Of a criterion, or "overall"."""
        return self.overall if of == "overall" else self.criteria[of]


def showing(seed: int, pair: Sequence[str], order: int) -> Showing:
    """`pair` names the two answers; the same seed draws the same."""
    drawn = hashlib.sha256(json.dumps([seed, *pair]).encode()).digest()[0]
    candidate_first = bool(drawn & 1) ^ bool(order)
    labels = _LABELS if drawn & 2 else _LABELS[::-1]
    return Showing("candidate" if candidate_first else "against", (labels[0], labels[1]))


def request_of(prompt: str, answers: Mapping[str, str], shown: Showing) -> list[dict[str, str]]:
    """The messages for a judge; `answers` has one for "candidate" and one for "against"."""
    second = "against" if shown.first == "candidate" else "candidate"
    texts = (answers[shown.first], answers[second])
    parts = [f"# The question\n\n{prompt}"]
    parts += [f"# Answer {label}\n\n{text}" for label, text in zip(shown.labels, texts, strict=True)]
    asked = "\n".join(f"- {name}: {meaning}" for name, meaning in _ASKED.items())
    form = json.dumps(dict.fromkeys((*CRITERIA, "overall"), "A | B | tie"))
    parts.append(
        f"# Your verdict\n\nWhich answer is better? Judge each criterion by itself:\n{asked}\n\nThen judge overall. "
        "Neither the order of the answers nor their names mean anything, and a longer answer is not better for its "
        "length. Say tie where neither is better.\n\n"
        f"Answer with one JSON object and nothing else:\n{form}"
    )
    told = "You compare two answers to one question, carefully and without favour. You do not know who wrote them."
    return [{"role": "system", "content": told}, {"role": "user", "content": "\n\n".join(parts)}]


def response_format() -> dict[str, Any]:
    """The verdict's form as a server that enforces one takes it."""
    names = [*CRITERIA, "overall"]
    choice = {"type": "string", "enum": [*_LABELS, TIE]}
    schema = {
        "type": "object",
        "properties": dict.fromkeys(names, choice),
        "required": names,
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}


def parse(text: str) -> Verdict | None:
    """The verdict, if the text is exactly one in the form that was asked for; None is "unparseable".

    Nothing is guessed: no verdict is looked for within prose, and none is read out of a form that is nearly right. Only
    white space around the object, and one code fence, are let pass.
    """
    fenced = _FENCED.fullmatch(text.strip())
    try:
        found = json.loads(fenced[1] if fenced else text, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.keys() != {*CRITERIA, "overall"}:
        return None
    if not all(isinstance(value, str) and value in (*_LABELS, TIE) for value in found.values()):
        return None
    return Verdict(found["overall"], {name: found[name] for name in CRITERIA})


def result_of(choice: str, shown: Showing) -> Result:
    """What a choice means for the candidate."""
    if choice == TIE:
        return "tie"
    return "win" if choice == shown.candidate_label else "loss"


def score_of(result: Result) -> float:
    """A tie is half a win."""
    return {"win": 1.0, "tie": 0.5, "loss": 0.0}[result]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a name stands twice")
    return made
