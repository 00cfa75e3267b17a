"""The demo's adapter against its base: trained, evaluated twice with one seed, told with its seconds.

    python benchmarks/evaluating.py --output FOLDER [--epochs 1] [--limit 1] [--max-tokens 64] [--seed 1]

FOLDER gets both reports, their pages, and figures.json: perplexities with intervals, whether the adapter's is below the
base's by more than noise, whether both reports are the same bytes, and what each part took.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from brie_client import Brie
from demo import wait_until_ready
from evaluate import evaluate, tell
from walk import EXAMPLES, FINAL

NAME = "philosophy"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    for name, number in (("epochs", 1), ("limit", 1), ("max-tokens", 64), ("seed", 1)):
        parser.add_argument(f"--{name}", type=int, default=number)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-evaluating-") as home:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("BRIE_")}
        environment = inherited | {"BRIE_HOME": home, "BRIE_PORT": url.rpartition(":")[2]}
        server = subprocess.Popen([sys.executable, "-m", "brie_cli", "serve"], env=environment)
        try:
            wait_until_ready(server, url)
            found = measure(Brie(base_url=f"{url}/v1"), asked)
        finally:
            server.terminate()
            server.wait()
    (asked.output / "figures.json").write_text(json.dumps(found, indent=1))


def measure(client: Brie, asked: argparse.Namespace) -> dict[str, Any]:
    """Train, evaluate twice; returns what figures.json says."""
    seconds, started = {}, time.monotonic()
    train(client, asked.epochs)
    seconds["training"] = round(time.monotonic() - started, 1)
    options = {"limit": asked.limit, "sampling": {"max_tokens": asked.max_tokens}, "seed": asked.seed}
    for part in ("first", "again"):
        started = time.monotonic()
        report = evaluate(client, asked.output / part, model=NAME, **options)
        seconds[part] = round(time.monotonic() - started, 1)
    print(tell(report))
    first, again = ((asked.output / part / "report.json").read_bytes() for part in ("first", "again"))
    (comparison,) = report["comparisons"]
    return {
        "perplexity": {name: told["figures"]["perplexity"] for name, told in report["candidates"].items()},
        "difference": comparison["figures"]["perplexity"],
        "sentence": comparison["sentence"],
        "same_bytes": first == again,
        "seconds": seconds,
    }


def train(client: Brie, epochs: int) -> None:
    """The demo's adapter, under its name."""
    files: dict[str, Any] = {}
    for param, name in (("training_file", "philosophy.jsonl"), ("validation_file", "philosophy-validation.jsonl")):
        with (EXAMPLES / "data" / name).open("rb") as file:
            files[param] = client.files.create(file=file, purpose="fine-tune").id
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs, "batch_size": 2}}}
    base = client.models.list().data[0].id
    job = client.fine_tuning.jobs.create(model=base, suffix=NAME, seed=7, method=method, **files)
    while job.status not in FINAL:
        time.sleep(0.5)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        raise RuntimeError(f"training ended as {job.status}: {job.error}")


if __name__ == "__main__":
    main()
