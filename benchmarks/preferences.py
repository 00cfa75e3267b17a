"""The same preferences learnt in several fresh processes: equal adapters, bit for bit, and a margin that rises.

    python benchmarks/preferences.py ROWS.jsonl [--runs 5] [--max-length 512] [--epochs 2]

Preference rows in the shape that TRL takes one way or another by the process's hash seed; each run gets another.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from brie_core.libraries import environment_for_child
from brie_core.settings import Settings
from brie_core.weights.resolve import resolve_base_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as scratch:
        base = resolve_base_model(Settings(home=Path(scratch))).folder
        job = _job(base, arguments.rows.resolve(), arguments.max_length, arguments.epochs)
        runs = [_run(job, Path(scratch) / f"run-{number}", seed=number) for number in range(arguments.runs)]
    digests = {digest for digest, _ in runs}
    for digest, margins in runs:
        print(digest[:16], " ".join(f"{margin:.4f}" for margin in margins))
    print(f"{len(runs)} runs, {len(digests)} different; margin {runs[0][1][0]:.4f} to {runs[0][1][-1]:.4f}")
    sys.exit(0 if len(digests) == 1 and runs[0][1][-1] > runs[0][1][0] else 1)


def _job(base: Path, rows: Path, max_length: int, epochs: int) -> dict[str, Any]:
    names = "rank alpha dropout target_modules learning_rate eval_steps save_steps quantization early_stopping"
    names += " save_total_limit packing from_checkpoint gradient_checkpointing num_processes"
    return {
        "job_id": "ftjob-benchmark", "device": "cpu", "dtype": "float32", "earlier": [], "from_adapter": None,
        "base": {"id": "base", "folder": str(base), "digest": "0"}, "training_file": str(rows), "validation_file": None,
        "spec": {
            "method": "dpo", "seed": 1, "training_file": "", "validation_file": None,
            "hyperparameters": {
                "n_epochs": epochs, "batch_size": None, "learning_rate_multiplier": None, "beta": None,
            },
            "brie": {**dict.fromkeys(names.split()), "max_length": max_length, "dry_run": False},
        },
    }  # fmt: skip


def _run(job: dict[str, Any], folder: Path, *, seed: int) -> tuple[str, list[float]]:
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(job))
    environment = environment_for_child(os.environ) | {"PYTHONHASHSEED": str(seed)}
    command = [sys.executable, "-m", "brie_trainer.run", str(folder)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as child:
        child.wait()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    margins = [event["data"]["train_reward_margin"] for event in events if event["type"] == "metrics"]
    adapter = folder / "checkpoints" / f"checkpoint-{events[-1]['step']}" / "adapter_model.safetensors"
    return hashlib.sha256(adapter.read_bytes()).hexdigest(), margins


if __name__ == "__main__":
    main()
