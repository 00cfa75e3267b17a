"""What a request costs outside of the engine, and how soon a token that is made is with its client.

    python benchmarks/overhead.py [--requests 100] [--streams 32] [--tokens 64] [--dtype auto]

Two bars. A chat of a few turns, one at a time, whole and streamed, spends under 3 ms outside of the engine (median):
from before the connection is made to `Engine.generate`, and from the last token made to the last byte read. And among
many streams each token is read by its client within one step of being made. Each token of these answers is one event:
the bias leaves only words to be said. The clients share the cores with the server; on a busy machine the last column is
what counts, the CPU time that the event loop's thread spends on all of one request.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from brie_core.settings import Settings
from brie_core.text.codec import TextCodec
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.resolve import resolve_base_model
from exchange import Reply, send, to_bytes
from servers import base_model, brie, running

_WORDS = (" the", " of", " and", " water", " light", " house", " river", " stone")
_BAR_S = 0.003
_TURNS = [
    {"role": "system", "content": "You are a guide to the history of ideas. Answer briefly."},
    {"role": "user", "content": "Who was Spinoza?"},
    {"role": "assistant", "content": "A philosopher of the seventeenth century who ground lenses for a living."},
    {"role": "user", "content": "And what did he write?"},
]


@dataclass(frozen=True)
class Timed:
    """One request: its client's side and its engine's."""

    reply: Reply
    ended: float
    asked: float
    cpu: float
    """Of the event loop's thread, when the engine was asked."""
    made: tuple[float, ...]

    @property
    def outside(self) -> float:
        """Seconds that are not the engine's."""
        return self.asked - self.reply.begun + self.ended - self.made[-1]

    @property
    def lags(self) -> list[float]:
        """Seconds from each token's making to its event."""
        return [read - made for made, read in zip(self.made, self.reply.arrivals, strict=True)]


async def ask(url: str, model: str, seed: int, biases: dict[str, int], **fields: Any) -> tuple[Reply, float]:
    """The reply, and when its last byte was read."""
    body = {"model": model, "messages": _TURNS, "seed": seed, "logit_bias": biases, "ignore_eos": True, **fields}
    reply = await send(url, to_bytes(url, "/v1/chat/completions", body))
    ended = time.perf_counter()
    if reply.status != 200:
        sys.exit(f"status {reply.status}: {reply.body[:300].decode(errors='replace')}")
    return reply, ended


async def load(url: str, model: str, biases: dict[str, int], given: argparse.Namespace) -> list[tuple[Reply, float]]:
    """By seed: a first half whole, a second half streamed, one at a time; then all streams at once."""
    for seed in range(10_000, 10_005):
        await ask(url, model, seed, biases, max_tokens=8, stream=True)
    replies = [
        await ask(url, model, seed, biases, max_tokens=4, stream=seed * 2 >= given.requests)
        for seed in range(given.requests)
    ]
    seeds = range(given.requests, given.requests + given.streams)
    streams = (ask(url, model, seed, biases, max_tokens=given.tokens, stream=True) for seed in seeds)
    return replies + await asyncio.gather(*streams)


def words(codec: TextCodec) -> dict[str, int]:
    """A bias that leaves nothing else to say; each is one token."""
    ids = [codec.encode(word) for word in _WORDS]
    return {str(each[0]): 100 for each in ids if len(each) == 1}


def joined(replies: Sequence[tuple[Reply, float]], notes: dict[str, Any]) -> list[Timed]:
    """Both sides by seed."""
    return [
        Timed(reply, ended, notes[str(seed)]["asked"], notes[str(seed)]["cpu"], tuple(notes[str(seed)]["made"]))
        for seed, (reply, ended) in enumerate(replies)
    ]


def show(timed: Sequence[Timed], given: argparse.Namespace) -> tuple[str, bool]:
    """The page, and whether both bars are met."""
    half, count = -(-given.requests // 2), given.requests
    ways = {"whole": timed[:half], "streamed": timed[half:count]}
    lines = [
        "| outside of the engine | p50 ms | p90 | p99 | to the engine, p50 | from it, p50 | CPU, p50 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, each in ways.items():
        before = median(one.asked - one.reply.begun for one in each)
        after = median(one.ended - one.made[-1] for one in each)
        cpu = median(later.cpu - earlier.cpu for earlier, later in pairwise(each))
        parts = " | ".join(f"{each * 1e3:.2f}" for each in (before, after, cpu))
        lines.append(f"| {name} | {_spread([one.outside for one in each])} | {parts} |")
    streams = timed[count:]
    lags, step = [lag for each in streams for lag in each.lags], _step(streams)
    late = sum(lag > step for lag in lags)
    lines += ["", f"| {len(streams)} streams, {len(lags)} tokens | p50 ms | p90 | p99 |", "|---|---|---|---|"]
    lines += [f"| from made to read | {_spread(lags)} |", f"| a step | {step * 1e3:.2f} | | |"]
    fast = all(median(one.outside for one in each) < _BAR_S for each in ways.values())
    lines += [
        "",
        f"Under {_BAR_S * 1e3:.0f} ms: {'pass' if fast else 'MISS'}; worst {max(lags) * 1e3:.1f} ms, later than ",
    ]
    lines[-1] += f"a step: {late} of {len(lags)}: {'MISS' if late else 'pass'}"
    return "\n".join(lines), fast and not late


def _step(streams: Sequence[Timed]) -> float:
    """The median time between two steps in which tokens were made."""
    moments = sorted({moment for each in streams for moment in each.made})
    return median(later - earlier for earlier, later in pairwise(moments))


def _spread(seconds: Sequence[float]) -> str:
    cuts = quantiles(seconds, n=100)
    return " | ".join(f"{cuts[number - 1] * 1e3:.2f}" for number in (50, 90, 99))


def main() -> None:
    """Start the server that takes notes, load it, stop it, and read them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as folder:
        work = Path(folder)
        base = resolve_base_model(Settings(home=work / "import"))
        server = brie("brie", work / "home", work, {"BRIE_MODEL": str(base.folder), "BRIE_DTYPE": given.dtype})
        command = (sys.executable, str(Path(__file__).with_name("recorded.py")), str(work / "notes"))
        with running(replace(server, command=command), work / "log") as url:
            replies = asyncio.run(load(url, base_model(url), words(Tokenizer(base.folder)), given))
        page, passes = show(joined(replies, json.loads((work / "notes").read_text())), given)
    print(page)
    sys.exit(not passes)


if __name__ == "__main__":
    main()
