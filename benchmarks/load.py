"""Closed-loop load against any OpenAI-compatible server: a fixed number of streams, each with its next request at once.

    python benchmarks/load.py http://127.0.0.1:8000 --models a0,a1 --n 32 --concurrency 32 --tokens 64 [--chat]

It knows the wire, and no server. Requests go round the models in turn, so that several names mean mixed adapters.
Answers are greedy, and of full length where the server knows `ignore_eos`; its `usage` counts their tokens.
"""

import argparse
import asyncio
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from exchange import Reply, send, to_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What to ask, and how much at once."""

    url: str
    models: tuple[str, ...]
    requests: int
    concurrency: int
    max_tokens: int = 64
    chat: bool = False
    lora_ids: int = 0
    """llama-server's way: so many adapters, chosen by each request's `lora` field instead of by model."""
    first: int = 0
    """The number of the first prompt: two runs that share no number share no prompt."""
    key: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a load measured; times in milliseconds, None where nothing was answered."""

    tokens_per_s: float
    ttft_p50: float | None
    ttft_p99: float | None
    itl_p50: float | None
    itl_p99: float | None
    answered: int
    tokens: int
    failures: tuple[str, ...]
    """What went wrong with each request that was not answered."""


def prompt(number: int) -> str:
    """About twelve tokens, which no other number has."""
    return f"Describe topic number {number} of natural history in detail:"


def request_body(load: Load, number: int) -> dict[str, Any]:
    """The fields of one request."""
    fields: dict[str, Any] = {
        "model": load.models[number % len(load.models)],
        "max_tokens": load.max_tokens,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }
    if load.lora_ids:
        chosen = number % load.lora_ids
        fields["lora"] = [{"id": index, "scale": float(index == chosen)} for index in range(load.lora_ids)]
        fields["cache_prompt"] = False  # what one adapter computed must not serve another
    if load.chat:
        return fields | {"messages": [{"role": "user", "content": prompt(number)}]}
    return fields | {"prompt": prompt(number)}


async def run_load(load: Load) -> Figures:
    """Ask everything once."""
    path = "/v1/chat/completions" if load.chat else "/v1/completions"
    numbers = iter(range(load.first, load.first + load.requests))
    outcomes: list[Reply | str] = []

    async def stream() -> None:
        answered = [
            await _ask(load, to_bytes(load.url, path, request_body(load, number), load.key)) for number in numbers
        ]
        outcomes.extend(answered)

    begun = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(load.concurrency)))
    return figures(outcomes, time.perf_counter() - begun)


async def _ask(load: Load, request: bytes) -> Reply | str:
    try:
        return await send(load.url, request)
    except (OSError, TimeoutError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def figures(outcomes: Sequence[Reply | str], seconds: float) -> Figures:
    """Sum up; an answer counts when it is complete, and its tokens are what the server says they were."""
    replies, counts, failures = [], [], []
    for outcome in outcomes:
        tokens_or_fault = _judge(outcome) if isinstance(outcome, Reply) else outcome
        if isinstance(outcome, Reply) and isinstance(tokens_or_fault, int):
            replies.append(outcome)
            counts.append(tokens_or_fault)
        else:
            failures.append(str(tokens_or_fault))
    first_texts = [reply.ttft for reply in replies]
    gaps = [gap for reply in replies for gap in reply.gaps]
    return Figures(
        tokens_per_s=round(sum(counts) / seconds, 1),
        ttft_p50=_milliseconds(first_texts, 0.5),
        ttft_p99=_milliseconds(first_texts, 0.99),
        itl_p50=_milliseconds(gaps, 0.5),
        itl_p99=_milliseconds(gaps, 0.99),
        answered=len(replies),
        tokens=sum(counts),
        failures=tuple(failures),
    )


def _judge(reply: Reply) -> int | str:
    """Its tokens, or what is wrong with it."""
    if reply.status != 200:
        return f"status {reply.status}: {reply.body[:200].decode(errors='replace')}"
    try:
        events = list(reply.events())
    except ValueError as error:
        return f"an event is no JSON: {error}"
    if broken := next((event for event in events if "error" in event), None):
        return f"error in the stream: {str(broken)[:200]}"
    usage = next((event["usage"] for event in reversed(events) if event.get("usage")), None)
    if not reply.is_whole or usage is None or not reply.arrivals:
        return "the stream ended early, or without text, or without usage"
    return int(usage["completion_tokens"])


def at(values: Sequence[float], share: float) -> float:
    """The value below which that share of `values`, which are some, lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def _milliseconds(seconds: Sequence[float], share: float) -> float | None:
    return round(at(seconds, share) * 1e3, 1) if seconds else None


def main() -> None:
    """One run to warm up, one that counts; prints JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--models", default="smollm2-135m-instruct", help="names, separated by commas")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--lora-ids", type=int, default=0)
    parser.add_argument("--key", default="none")
    given = parser.parse_args()
    load = Load(
        url=given.url,
        models=tuple(given.models.split(",")),
        requests=given.n,
        concurrency=given.concurrency,
        max_tokens=given.tokens,
        chat=given.chat,
        lora_ids=given.lora_ids,
        key=given.key,
    )
    asyncio.run(run_load(load))
    print(json.dumps(dataclasses.asdict(asyncio.run(run_load(dataclasses.replace(load, first=given.n))))))


if __name__ == "__main__":
    main()
