"""What the HTTP layer costs: the same load on the engine alone and on `brie serve`, in turn; it must be under a tenth.

python benchmarks/http_cost.py [--rounds 3] [--dtype auto] [--concurrency 1,8,32]
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

from adapters import write_adapters
from brie_core.settings import Settings
from brie_core.weights.resolve import resolve_base_model
from rounds import Plan, measure
from servers import Scenario, brie

Rates = dict[tuple[str, int], list[float]]


def main() -> None:
    """Engine and server in turn, then the medians side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--n", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    alone, served = defaultdict[tuple[str, int], list[float]](list), defaultdict[tuple[str, int], list[float]](list)
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as work:
        for _ in range(given.rounds):
            _measure_engine(given, alone)
            _measure_server(given, Path(work), served)
    print(show(alone, served))


def _measure_engine(given: argparse.Namespace, rates: Rates) -> None:
    command = [sys.executable, str(Path(__file__).with_name("engine.py")), "--json", "--many", "0"]
    for name in ("concurrency", "n", "tokens", "dtype"):
        command += [f"--{name}", str(getattr(given, name))]
    for run in json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout):
        rates[run["scenario"], run["concurrency"]].append(run["tokens_per_s"])


def _measure_server(given: argparse.Namespace, work: Path, rates: Rates) -> None:
    base = resolve_base_model(Settings(home=work / "import"))
    adapters = tuple(write_adapters(work / "adapters", base, 8))
    plan = Plan(
        concurrencies=tuple(int(part) for part in given.concurrency.split(",")),
        requests=given.n,
        tokens=given.tokens,
        rounds=1,
        adapters=adapters,
        num_few=len(adapters),
        many_streams=1,
    )
    server = brie("brie", work / "home", work, {"BRIE_MODEL": str(base.folder), "BRIE_DTYPE": given.dtype})
    server = replace(server, scenarios=(Scenario.BASE, Scenario.FEW))
    for row in measure([server], plan, work, sys.exit):
        rates[str(row.scenario), row.concurrency].append(row.figures.tokens_per_s)


def show(alone: Rates, served: Rates) -> str:
    """Medians, and the share of the engine's rate that is lost on the way."""
    lines = [
        "| scenario | streams | engine alone, tokens/s | over HTTP, tokens/s | lost | |",
        "|---|---|---|---|---|---|",
    ]
    for scenario, streams in alone:
        engine, http = median(alone[scenario, streams]), median(served[scenario, streams])
        lost = 1 - http / engine
        word = "pass" if lost < 0.1 else "MISS"
        lines.append(f"| {scenario} | {streams} | {engine:.0f} | {http:.0f} | {lost:.1%} | {word} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
