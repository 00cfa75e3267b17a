"""Answers held to JSON schemas over HTTP: are all valid, what does a step cost, and whom do hostile schemas disturb?

    python benchmarks/forms.py [--schemas 200] [--streams 8] [--rounds 3] [--dtype auto]

The bars: every answer that was not cut is valid by the `jsonschema` package, and none is cut; each hostile schema is
refused within 2 seconds. The model is the default one.
"""

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import jsonschema

from brie_core.settings import Settings
from brie_core.weights.resolve import resolve_base_model
from exchange import Reply, begin, send, to_bytes
from hostile_schemas import HOSTILE, object_of
from random_schemas import random_schema
from servers import base_model, brie, running

CHAT = "/v1/chat/completions"
_LONG = object_of(a={"type": "string", "minLength": 3000, "maxLength": 5000})
_MOST_TOKENS = 1000
_BAR_SECONDS = 2.0
_BESIDE_TOKENS = 900
_PARTS = ("hostile", "cost", "validity")


def main() -> None:
    """One server, three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=int, default=200)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--only", choices=_PARTS, nargs="+", default=_PARTS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as folder:
        work = Path(folder)
        base = resolve_base_model(Settings(home=work / "import"))
        server = brie("brie", work / "home", work, {"BRIE_MODEL": str(base.folder), "BRIE_DTYPE": given.dtype})
        with running(server, work / "log") as url:
            asyncio.run(_measure(url, given))


async def _measure(url: str, given: argparse.Namespace) -> None:
    if "hostile" in given.only:
        print(await hostile(url), flush=True)
    if "cost" in given.only:
        print(await cost(url, given.streams, given.rounds), flush=True)
    schemas = [random_schema(Random(seed)) for seed in range(given.schemas)]
    for temperature in (0.0, 1.0) if "validity" in given.only else ():
        print(await validity(url, schemas, temperature, given.streams), flush=True)


def _request(url: str, schema: dict[str, Any] | None, **more: Any) -> bytes:
    ask = "Invent an example and write it as JSON."
    if schema is not None:
        more["response_format"] = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
        ask += f" It has {', '.join(schema.get('properties', {}))}."[:300]
    messages = [{"role": "user", "content": ask}]
    return to_bytes(url, CHAT, {"model": base_model(url), "messages": messages, "stream": True} | more)


async def validity(url: str, schemas: Sequence[dict[str, Any]], temperature: float, streams: int) -> str:
    """How many answers each outcome has."""
    places, begun = asyncio.Semaphore(streams), time.perf_counter()

    async def outcome(seed: int, schema: dict[str, Any]) -> str:
        request = _request(url, schema, temperature=temperature, seed=seed, max_tokens=_MOST_TOKENS)
        async with places:
            return _judge(await send(url, request), schema)

    outcomes = Counter(await asyncio.gather(*(outcome(*each) for each in enumerate(schemas))))
    share, seconds = outcomes["valid"] / len(schemas), time.perf_counter() - begun
    found = ", ".join(f"{count} {name}" for name, count in outcomes.most_common())
    passed = "pass" if share == 1 else "MISS"
    return f"Temperature {temperature:g}: {len(schemas)} schemas, {found} ({seconds:.0f} s); bar 100 %: {passed}"


def _judge(reply: Reply, schema: dict[str, Any]) -> str:
    if reply.status != 200:
        return f"refused: {reply.body[:200].decode(errors='replace')}"
    ends = [event["choices"][0]["finish_reason"] for event in reply.events() if event.get("choices")]
    if not ends or ends[-1] != "stop":
        return f"ended by {ends[-1] if ends else 'an error'}"
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    try:
        validator.validate(json.loads(reply.text()))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"invalid: {str(error)[:200]}"
    return "valid"


async def cost(url: str, streams: int, rounds: int) -> str:
    """Milliseconds between tokens with and without a form, alternating."""
    lines = ["| streams | ms a token without | with a form | more |", "|---|---|---|---|"]
    plain, held = (_request(url, schema, max_tokens=128, min_tokens=128, seed=1) for schema in (None, _LONG))
    await asyncio.gather(send(url, plain), send(url, held))
    for number in sorted({1, streams}):
        gaps: dict[bytes, list[float]] = {plain: [], held: []}
        for request in [plain, held] * rounds:
            replies = await asyncio.gather(*(send(url, request) for _ in range(number)))
            gaps[request] += [gap for reply in replies for gap in reply.gaps]
        without, having = (1e3 * sum(gaps[each]) / len(gaps[each]) for each in (plain, held))
        lines.append(f"| {number} | {without:.2f} | {having:.2f} | {having / without - 1:+.1%} |")
    return "\n".join([*lines, ""])


async def hostile(url: str) -> str:
    """Each schema's time beside a stream, and the stream's longest gap meanwhile."""
    lines = ["| schema | status | s | longest gap beside it, ms |", "|---|---|---|---|"]
    alone = (await send(url, _stream(url, 256))).gaps
    slowest, beside = 0.0, await begin(url, _stream(url, _BESIDE_TOKENS))
    for name, schema in {"(no response_format)": None, **HOSTILE}.items():
        if beside.ended.done():
            beside = await begin(url, _stream(url, _BESIDE_TOKENS))
        await asyncio.sleep(0.5)
        start = time.perf_counter()
        reply = await send(url, _request(url, schema, max_tokens=10))
        end = time.perf_counter()
        await asyncio.sleep(0.3)
        gap = max(_gaps_between(beside.arrivals, start, end + 0.3), default=0.0)
        if schema is not None:
            slowest = max(slowest, end - start if reply.status == 400 else _BAR_SECONDS)
        lines.append(f"| {name} | {reply.status} | {end - start:.2f} | {gap * 1e3:.0f} |")
    await beside.ended
    verdict = f"Slowest {slowest:.2f} s, at most {_BAR_SECONDS:g}: {'pass' if slowest < _BAR_SECONDS else 'MISS'}"
    facts = f"a stream alone: median gap {median(alone) * 1e3:.0f} ms, longest {max(alone) * 1e3:.0f} ms"
    return "\n".join([*lines, "", f"{verdict}; {facts}", ""])


def _stream(url: str, tokens: int) -> bytes:
    return _request(url, None, max_tokens=tokens, min_tokens=tokens, temperature=0)


def _gaps_between(arrivals: Sequence[float], start: float, end: float) -> list[float]:
    return [later - earlier for earlier, later in pairwise(arrivals) if later >= start and earlier <= end]


if __name__ == "__main__":
    main()
