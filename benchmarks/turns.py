"""A conversation's second turn over HTTP: its time to first token against the first's, of a prompt of 1,500 tokens.

    python benchmarks/turns.py [--tokens 1500] [--rounds 3] [--dtype auto]

The bar is 15 %. The conversation grows by the answer and a short question, as chat clients send it.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from brie_core.settings import Settings
from brie_core.text.codec import TextCodec
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.resolve import resolve_base_model
from exchange import Reply, send, to_bytes
from servers import base_model, brie, running

_WORDS = ("river", "stone", "cloud", "market", "winter", "garden", "letter", "engine", "silver", "window", "forest")
_BAR = 0.15


def long_text(codec: TextCodec, num_tokens: int, seed: int) -> str:
    """About so many tokens, which no other seed's text begins with."""
    chance, words = random.Random(seed), [f"Story {seed}."]
    while (missing := num_tokens - len(codec.encode(" ".join(words)))) > 0:
        words += chance.choices(_WORDS, k=max(missing // 2, 1))
    return " ".join(words)


async def two_turns(url: str, model: str, text: str, max_tokens: int) -> tuple[Reply, Reply]:
    """The replies to both turns of one conversation."""
    messages = [{"role": "user", "content": f"{text} What is this text about?"}]
    first = await _ask(url, model, messages, max_tokens)
    messages += [{"role": "assistant", "content": first.text()}, {"role": "user", "content": "Say it more briefly."}]
    return first, await _ask(url, model, messages, max_tokens)


async def _ask(url: str, model: str, messages: list[dict[str, str]], max_tokens: int) -> Reply:
    fields: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    fields |= {"stream": True, "stream_options": {"include_usage": True}}
    reply = await send(url, to_bytes(url, "/v1/chat/completions", fields))
    if reply.status != 200 or not reply.arrivals:
        sys.exit(f"status {reply.status}: {reply.body[:300].decode(errors='replace')}")
    return reply


def main() -> None:
    """One short conversation to warm up, then each long one on a line, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as folder:
        work = Path(folder)
        base = resolve_base_model(Settings(home=work / "import"))
        server = brie("brie", work / "home", work, {"BRIE_MODEL": str(base.folder), "BRIE_DTYPE": given.dtype})
        with running(server, work / "log") as url:
            print(measure(url, Tokenizer(base.folder), given))


def measure(url: str, codec: TextCodec, given: argparse.Namespace) -> str:
    """The page."""
    model = base_model(url)
    asyncio.run(two_turns(url, model, long_text(codec, 64, seed=0), given.answer))
    lines, ratios = (
        ["| prompt tokens, turn 1 | turn 2 | TTFT ms, turn 1 | turn 2 | ratio |", "|---|---|---|---|---|"],
        [],
    )
    for seed in range(1, given.rounds + 1):
        first, second = asyncio.run(two_turns(url, model, long_text(codec, given.tokens, seed), given.answer))
        ratios.append(second.ttft / first.ttft)
        sizes = f"{_prompt_tokens(first)} | {_prompt_tokens(second)}"
        lines.append(f"| {sizes} | {first.ttft * 1e3:.0f} | {second.ttft * 1e3:.0f} | {ratios[-1]:.1%} |")
    found = median(ratios)
    return "\n".join([*lines, "", f"Median {found:.1%}, at most {_BAR:.0%}: {'pass' if found <= _BAR else 'MISS'}"])


def _prompt_tokens(reply: Reply) -> int:
    return int(next(event["usage"]["prompt_tokens"] for event in reply.events() if event.get("usage")))


if __name__ == "__main__":
    main()
