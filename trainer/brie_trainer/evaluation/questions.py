"""What a server is asked for each row, and what is read from its answer. Pure: it knows bodies, and sends none."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brie_trainer.data.examples import IGNORED
from brie_trainer.evaluation.contract import Candidate, Judge, Sampling
from brie_trainer.evaluation.material import HeldOutExample, Prompt
from brie_trainer.evaluation.verdicts import response_format

MOST_SEED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Question:
    """A POST."""

    path: str
    """Below /v1."""
    body: Mapping[str, Any]


class UnusableAnswer(Exception):
    """An answer that is none: asked again, it may be one."""


class NotTold(Exception):
    """An answer without what was asked for, which this server does not tell."""


def loss_question(example: HeldOutExample, candidate: Candidate) -> Question:
    """The logprob and the rank of each token of the prompt; nothing is generated."""
    body = {"model": candidate.model, "prompt": list(example.input_ids), "max_tokens": 0, "echo": True}
    return Question("completions", {**body, "prompt_logprobs": 0, "temperature": 0})


def read_loss(answer: Mapping[str, Any], example: HeldOutExample) -> dict[str, Any]:
    """Over the labelled tokens alone: negative log-likelihood in nats, tokens, and those that were the most
    probable."""
    told = _choice(answer).get("prompt_logprobs")
    if told is None:
        raise NotTold("the server does not tell the logprobs of a prompt")
    if not isinstance(told, list) or len(told) != len(example.input_ids):
        raise UnusableAnswer("the server tells logprobs of other tokens than it was given")
    scored = [_token(entry, label) for entry, label in zip(told, example.labels, strict=True) if label != IGNORED]
    return {
        "nll": math.fsum(-logprob for logprob, _ in scored),
        "tokens": len(scored),
        "correct": sum(rank == 1 for _, rank in scored),
        "bytes": example.num_bytes,
    }


def answer_question(prompt: Prompt, candidate: Candidate, sampling: Sampling, seed: int) -> Question:
    """One answer, drawn with this seed."""
    messages = [dict(message) for message in prompt.messages]
    if sampling.system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": sampling.system_prompt})
    body: dict[str, Any] = {"model": candidate.model, "messages": messages, "max_tokens": sampling.max_tokens}
    body |= {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.repetition_penalty is not None:
        body["repetition_penalty"] = sampling.repetition_penalty
    return Question("chat/completions", {**body, "seed": (seed + candidate.seed_offset) & MOST_SEED})


def read_answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Text, why it ended, and how many tokens it took if that is told."""
    choice = _choice(answer)
    message, finish = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, Mapping) or not isinstance(finish, str):
        raise UnusableAnswer("the answer has no message, or does not say why it ended")
    text = message.get("content")
    if not isinstance(text, str | None):
        raise UnusableAnswer("the answer's content is no text")
    usage = answer.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, Mapping) else None
    return {"text": text or "", "finish": finish, "tokens": tokens if isinstance(tokens, int) else None}


def verdict_question(messages: list[dict[str, str]], judge: Judge, seed: int) -> Question:
    """The most probable verdict."""
    body: dict[str, Any] = {"model": judge.model, "messages": messages, "max_tokens": judge.max_tokens}
    body |= {"temperature": 0, "seed": seed}
    return Question("chat/completions", body | ({"response_format": response_format()} if judge.structured else {}))


def sample_seed(seed: int, item: str, sample: int) -> int:
    """The same for every candidate."""
    drawn = hashlib.sha256(json.dumps([seed, item, sample]).encode()).digest()
    return int.from_bytes(drawn[:4]) & MOST_SEED


def _choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise UnusableAnswer("the answer has no choices")
    return choices[0]


def _token(entry: Any, label: int) -> tuple[float, int]:
    told = entry.get(str(label)) if isinstance(entry, Mapping) else None
    logprob = told.get("logprob") if isinstance(told, Mapping) else None
    if not isinstance(told, Mapping) or not isinstance(logprob, int | float) or not math.isfinite(logprob):
        raise UnusableAnswer("the server does not tell the logprob of a token that it was given")
    rank = told.get("rank")
    if not isinstance(rank, int):
        raise NotTold("the server does not tell the ranks of tokens")
    return float(logprob), rank
