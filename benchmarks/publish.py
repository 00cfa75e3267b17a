"""A new adapter: from disk to its first token on an idle and on a busy server, and what running streams feel of it.

    python benchmarks/publish.py [--adapters 12] [--streams 8] [--dtype auto]

Then what switching costs: one stream whose requests alternate between adapters, against one that stays with one.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from statistics import median
from typing import Any

from adapters import write_adapters
from brie_core.settings import Settings
from brie_core.weights.resolve import resolve_base_model
from exchange import Exchange, begin, send, to_bytes
from load import Load, at, request_body, run_load
from servers import base_model, brie, running

_SETTLED = 40
"""Events in all streams together before the first adapter is loaded, and between two."""


@dataclass(frozen=True, slots=True)
class Published:
    """One adapter's way, in seconds on the clock of `time.perf_counter`."""

    begun: float
    loaded: float
    first_token: float


class Streams:
    """So many streams of the base model, each with its next request at once, until they are stopped."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._numbers = iter(range(1_000_000))
        self._exchanges: list[Exchange] = []
        self._tasks = [asyncio.create_task(self._stream()) for _ in range(load.concurrency)]

    async def _stream(self) -> None:
        for number in self._numbers:
            fields = request_body(self._load, number)
            exchange = await begin(self._load.url, to_bytes(self._load.url, "/v1/completions", fields))
            self._exchanges.append(exchange)
            await exchange.ended

    async def settle(self) -> None:
        """Wait for events; raises what broke a stream."""
        wanted = self.num_events + _SETTLED * len(self._tasks)
        while self.num_events < wanted:
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """Leave the answers where they are."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def num_events(self) -> int:
        """Texts that came so far."""
        return sum(len(exchange.arrivals) for exchange in self._exchanges)

    def gaps(self) -> Iterator[tuple[float, float]]:
        """Begin and end of each pause inside an answer."""
        for exchange in self._exchanges:
            yield from zip(exchange.arrivals, exchange.arrivals[1:], strict=False)


async def publish_all(load: Load, folders: Sequence[Path]) -> tuple[Streams, list[Published]]:
    """Load one adapter after the other beside the running streams."""
    streams, published = Streams(load), []
    await streams.settle()
    for folder in folders:
        published.append(await _publish(load, folder))
        await streams.settle()
    await streams.stop()
    return streams, published


async def _publish(load: Load, folder: Path) -> Published:
    begun = time.perf_counter()
    fields: dict[str, Any] = {"lora_name": folder.name, "lora_path": str(folder)}
    reply = await send(load.url, to_bytes(load.url, "/v1/load_lora_adapter", fields))
    if reply.status != HTTPStatus.OK:
        raise RuntimeError(f"status {reply.status}: {reply.body[:300].decode(errors='replace')}")
    loaded = time.perf_counter()
    fields = request_body(replace(load, models=(folder.name,), max_tokens=1), 0)
    reply = await send(load.url, to_bytes(load.url, "/v1/completions", fields))
    if not reply.arrivals:
        raise RuntimeError(f"status {reply.status}: {reply.body[:300].decode(errors='replace')}")
    return Published(begun, loaded, reply.arrivals[0])


def tell(streams: Streams, published: Sequence[Published]) -> str:
    """Medians over the adapters, and pauses while one was published against all others."""
    normal: list[float] = []
    meanwhile: list[float] = []
    for begun, ended in streams.gaps():
        touched = any(begun < each.first_token and ended > each.begun for each in published)
        (meanwhile if touched else normal).append((ended - begun) * 1e3)
    loads = median(each.loaded - each.begun for each in published) * 1e3
    firsts = median(each.first_token - each.begun for each in published) * 1e3
    told = f"{len(published)} adapters: load call {loads:.0f} ms, disk to first token {firsts:.0f} ms (medians)"
    if not normal:
        return f"{told}, with nothing beside them"
    return (
        f"{told}, beside {len(normal) + len(meanwhile)} pauses of running streams:\n"
        f"- largest pause of the streams meanwhile {max(meanwhile, default=0):.0f} ms; "
        f"otherwise p50 {at(normal, 0.5):.0f}, p99 {at(normal, 0.99):.0f}, largest {max(normal):.0f} ms"
    )


def switching(load: Load, names: Sequence[str], rounds: int) -> str:
    """One stream over one adapter and one over all in turn, alternately."""
    alone, mixed = replace(load, models=(names[0],)), replace(load, models=tuple(names))
    asyncio.run(run_load(mixed))
    rates: dict[Load, list[float]] = {alone: [], mixed: []}
    for number in range(1, rounds + 1):
        for each, found in rates.items():
            found.append(asyncio.run(run_load(replace(each, first=number * load.requests))).tokens_per_s)
    one, many = median(rates[alone]), median(rates[mixed])
    return (
        f"{load.requests} requests of {load.max_tokens} tokens in one stream: {one:.1f} tokens/s on one adapter, "
        f"{many:.1f} on {len(names)} in turn: switching costs {1 - many / one:.1%}"
    )


def main() -> None:
    """Both measurements on one server."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", type=int, default=12, help="half of them alone, half beside the streams")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="of each switching answer")
    parser.add_argument("--rounds", type=int, default=3, help="of the switching measurement")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as folder:
        work = Path(folder)
        base = resolve_base_model(Settings(home=work / "import"))
        adapters = write_adapters(work / "adapters", base, given.adapters)
        server = brie("brie", work / "home", work, {"BRIE_MODEL": str(base.folder), "BRIE_DTYPE": given.dtype})
        with running(server, work / "log") as url:
            load = Load(url=url, models=(base_model(url),), requests=1, concurrency=given.streams, max_tokens=512)
            alone, beside = adapters[::2], adapters[1::2]
            print(tell(*asyncio.run(publish_all(replace(load, concurrency=0), alone))))
            print(tell(*asyncio.run(publish_all(load, beside))))
            one = replace(load, requests=2 * len(adapters), concurrency=1, max_tokens=given.tokens)
            print(switching(one, [each.name for each in adapters], given.rounds))


if __name__ == "__main__":
    main()
