"""The torch engine's own rate, driven in this process without HTTP, and what each part of a step takes.

    python benchmarks/engine.py [--concurrency 1,8,32] [--dtype auto] [--json]

The same load as `serve.py`: prompts of about twelve tokens, greedy answers of full length, one run to warm up and one
that counts. Parts are in ms for each step of the counted run, steps that compute prompts included.
"""

import argparse
import asyncio
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import machine
from adapters import write_adapters
from brie_core.settings import Settings
from brie_core.weights.base_model import BaseModel
from brie_core.weights.resolve import resolve_base_model
from brie_server.engine.base import Engine, Prompt, Sampling
from brie_server.engine.factory import create_engine, open_codec
from load import prompt
from stopwatch import Stopwatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One counted run of the engine."""

    scenario: str
    concurrency: int
    tokens_per_s: float
    step_ms: float
    """Wall time for each step: the sum of all parts."""
    parts_ms: dict[str, float]


def watch_engine(watch: Stopwatch) -> None:
    """Time the parts of a step; those inside others are taken out of them in `parts`."""
    from brie_server.engine import thread
    from brie_server.engine.torch import adapters, model, runner, scheduler

    watch.watch(runner.Runner, "run", "run")
    watch.watch(runner, "lay_out", "batch")
    watch.watch(runner, "build_batch", "batch")
    watch.watch(adapters.Adapters, "batch", "adapters")
    watch.watch(model.Decoder, "forward", "forward")
    watch.watch(runner, "sample", "sampler")
    watch.watch(scheduler.Scheduler, "plan", "plan")
    watch.watch(scheduler.Scheduler, "advance", "advance")
    watch.watch(thread.EngineThread, "_deliver", "deliver")


def parts(watch: Stopwatch, seconds: float) -> dict[str, float]:
    """Milliseconds for each step, by part; `waiting` is all of the wall time that no part explains."""
    spent = dict(watch.seconds)
    cache = spent["run"] - sum(spent.get(part, 0) for part in ("batch", "adapters", "forward", "sampler"))
    shares = {
        "forward": spent["forward"],
        "sampler": spent["sampler"],
        "batch and adapters": spent["batch"] + spent.get("adapters", 0),
        "cache": cache,
        "scheduler": spent["plan"] + spent["advance"],
        "hand-over": spent["deliver"],
    }
    steps = watch.calls["run"]
    waiting = seconds - sum(shares.values())
    return {name: round(share / steps * 1e3, 2) for name, share in {**shares, "waiting": waiting}.items()}


async def drive(engine: Engine, prompts: Sequence[Prompt], concurrency: int) -> tuple[int, float]:
    """Tokens and seconds of a closed loop."""
    waiting, tokens = iter(prompts), 0

    async def stream() -> None:
        nonlocal tokens
        for each in waiting:
            async for _ in engine.generate(each):
                tokens += 1

    begun = time.perf_counter()
    await asyncio.gather(*(stream() for _ in range(concurrency)))
    return tokens, time.perf_counter() - begun


class Bench:
    """One engine with its adapters loaded."""

    def __init__(self, engine: Engine, base: BaseModel, tokens: int) -> None:
        self._engine, self._codec, self._tokens = engine, open_codec(base), tokens
        self._watch = Stopwatch()
        self._asked = 0
        watch_engine(self._watch)

    async def measure(self, scenario: str, adapters: Sequence[str | None], concurrency: int, requests: int) -> Run:
        """Warm up, then count."""
        await drive(self._engine, self._prompts(adapters, requests), concurrency)
        prompts = self._prompts(adapters, requests)
        self._watch.reset()
        tokens, seconds = await drive(self._engine, prompts, concurrency)
        return Run(
            scenario=scenario,
            concurrency=concurrency,
            tokens_per_s=round(tokens / seconds, 1),
            step_ms=round(seconds / self._watch.calls["run"] * 1e3, 2),
            parts_ms=parts(self._watch, seconds),
        )

    def _prompts(self, adapters: Sequence[str | None], requests: int) -> list[Prompt]:
        """Ones that were not asked before."""
        numbers = range(self._asked, self._asked + requests)
        self._asked += requests
        return [self._prompt(number, adapters[number % len(adapters)]) for number in numbers]

    def _prompt(self, number: int, adapter: str | None) -> Prompt:
        return Prompt(
            token_ids=tuple(self._codec.encode(prompt(number))),
            max_tokens=self._tokens,
            stop_ids=frozenset(),
            sampling=Sampling(temperature=0),
            adapter=adapter,
        )


async def run_all(given: argparse.Namespace, work: Path) -> list[Run]:
    """Every scenario at every concurrency."""
    settings = Settings(home=work, dtype=given.dtype)
    base = resolve_base_model(settings)
    engine = create_engine(settings, base)
    folders = write_adapters(work / "adapters", base, max(given.few, given.many))
    names = [folder.name for folder in folders]
    for folder in folders:
        await engine.load_adapter(folder.name, folder)
    bench = Bench(engine, base, given.tokens)
    concurrencies = [int(part) for part in given.concurrency.split(",")]
    scenarios: list[tuple[str, Sequence[str | None]]] = [
        ("base", [None]),
        (f"{given.few} adapters", names[: given.few]),
    ]
    runs: list[Run] = []
    for scenario, adapters in scenarios:
        runs += [await bench.measure(scenario, adapters, each, min(given.n, 8 * each)) for each in concurrencies]
    if given.many:
        requests = max(given.n, given.many)
        runs.append(await bench.measure(f"{given.many} adapters", names, max(concurrencies), requests))
    await engine.aclose()
    return runs


def show(runs: Sequence[Run]) -> str:
    """A Markdown table."""
    names = list(runs[0].parts_ms)
    lines = [["scenario", "streams", "tokens/s", "ms a step", *names], ["---"] * (4 + len(names))]
    for run in runs:
        times = [f"{run.parts_ms[name]:.2f}" for name in names]
        lines.append([run.scenario, str(run.concurrency), f"{run.tokens_per_s:.0f}", f"{run.step_ms:.1f}", *times])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Begin again as a server's process begins, then measure."""
    machine.begin_as_a_server()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--few", type=int, default=8)
    parser.add_argument("--many", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as work:
        runs = asyncio.run(run_all(given, Path(work)))
    print(json.dumps([dataclasses.asdict(run) for run in runs]) if given.json else show(runs))


if __name__ == "__main__":
    main()
