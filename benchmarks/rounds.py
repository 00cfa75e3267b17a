"""Measures servers one after another, several times round. It knows order and repetition, not what figures mean.

Only one server runs at a time, because they share the cores. Each round begins with another server, so that a machine
that grows slower or faster meets all alike.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2

from load import Figures, Load, run_load
from servers import Scenario, Server, base_model, load_adapter, running


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is asked of every server."""

    concurrencies: tuple[int, ...]
    requests: int
    """In each counted run, but at most eight for each stream."""
    tokens: int
    rounds: int
    adapters: tuple[Path, ...]
    """Folders; the first `num_few` are the few, all of them the many."""
    num_few: int
    many_streams: int
    """How many streams the many adapters are asked over."""

    def cells(self, scenario: Scenario) -> Iterator[tuple[int, int]]:
        """Concurrency and number of requests of each run."""
        if scenario is Scenario.MANY:
            yield self.many_streams, max(self.requests, len(self.adapters))
        else:
            yield from ((streams, min(self.requests, 8 * streams)) for streams in self.concurrencies)

    def folders(self, scenario: Scenario) -> tuple[Path, ...]:
        """The adapters that are mixed."""
        return {Scenario.BASE: (), Scenario.FEW: self.adapters[: self.num_few], Scenario.MANY: self.adapters}[scenario]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One counted run."""

    round: int
    server: str
    scenario: Scenario
    concurrency: int
    figures: Figures


def measure(servers: Sequence[Server], plan: Plan, logs: Path, note: Callable[[str], None]) -> Iterator[Row]:
    """Every cell in every round; a server that fails is told to `note`, and the others go on."""
    for number in range(plan.rounds):
        first = number % len(servers)
        for server in [*servers[first:], *servers[:first]]:
            try:
                with running(server, logs / f"{server.name}-{number + 1}.log") as url:
                    yield from _measure_server(server, url, plan, number + 1)
            except (RuntimeError, OSError, httpx2.HTTPError) as error:
                note(f"{server.name}, round {number + 1}: {error}")


def _measure_server(server: Server, url: str, plan: Plan, number: int) -> Iterator[Row]:
    model, loaded, first = base_model(url), set[Path](), 0
    for scenario in server.scenarios:
        folders = plan.folders(scenario)
        if not server.lora_ids:
            for folder in folders:
                if folder not in loaded:
                    load_adapter(url, folder, replaces=server.replaces)
            loaded |= set(folders)
        for streams, requests in plan.cells(scenario):
            load = Load(
                url=url,
                models=(model,) if server.lora_ids else tuple(folder.name for folder in folders) or (model,),
                requests=requests,
                concurrency=streams,
                max_tokens=plan.tokens,
                lora_ids=server.lora_ids,
                first=first,
            )
            row = Row(
                round=number, server=server.name, scenario=scenario, concurrency=streams, figures=_warm_and_count(load)
            )
            first += 2 * requests
            sys.stderr.write(f"{row}\n")
            yield row


def _warm_and_count(load: Load) -> Figures:
    """One run to warm up; one that counts, with prompts that the server has not seen."""
    asyncio.run(run_load(load))
    return asyncio.run(run_load(replace(load, first=load.first + load.requests)))
