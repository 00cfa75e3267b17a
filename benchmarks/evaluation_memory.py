"""What an evaluation takes above the resting model at a vocabulary of 151,936: the recipe's, Brie's, Brie's training.

    python benchmarks/evaluation_memory.py [--layers 2] [--output FILE]

Qwen2.5-0.5B's shape with random weights and fewer layers; 8 rows of 1,024 tokens, every token labelled, which is the
worst case. The recipe evaluates them as transformers' Trainer does by default: 8 rows at once, all logits, in float32.
Each is a process of its own, measured by its peak resident memory.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from brie_core.libraries import environment_for_child

ROWS, LENGTH, VOCABULARY = 8, 1024, 151_936
PARTS = ("recipe evaluates", "brie evaluates", "brie trains")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(_part(arguments.part, arguments.base)))
        return
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as scratch:
        base = _write_base(Path(scratch), arguments.layers)
        found = {part: _measured(part, base) for part in PARTS}
    recipe, brie, training = (found[part]["above_rest_gib"] for part in PARTS)
    told = {"layers": arguments.layers, "figures": found, "of_recipe": brie / recipe, "of_training": brie / training}
    print(json.dumps(told, indent=1))
    print("met" if brie <= recipe / 4 and brie <= training else "MISSED")
    if arguments.output:
        arguments.output.write_text(json.dumps(told, indent=1) + "\n")


def _measured(part: str, base: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--part", part, "--base", str(base)]
    environment = environment_for_child(os.environ) if part.startswith("brie") else dict(os.environ)
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _write_base(folder: Path, layers: int) -> Path:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape: dict[str, Any] = {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    }
    config = Qwen2Config(**shape, num_hidden_layers=layers, vocab_size=VOCABULARY, tie_word_embeddings=True)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def _part(part: str, base: Path) -> dict[str, float]:
    rows = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    run = _recipe(base, rows) if part == PARTS[0] else _brie(base, rows, training=part == PARTS[2])
    next(run)
    resting = _now()
    next(run, None)
    return {"resting_gib": resting, "peak_gib": _peak(), "above_rest_gib": _peak() - resting}


def _recipe(base: Path, rows: torch.Tensor) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    yield
    with torch.no_grad():
        found = model(input_ids=rows, labels=rows, attention_mask=torch.ones_like(rows))
        float(found.loss)


def _brie(base: Path, rows: torch.Tensor, *, training: bool) -> Any:
    from brie_core.weights.base_model import BaseModel
    from brie_trainer.data.examples import Example
    from brie_trainer.training.batches import collate, micro_batches
    from brie_trainer.training.device_memory import free_memory
    from brie_trainer.training.evaluation import Scorer
    from brie_trainer.training.model import load
    from brie_trainer.training.plan import Shape, plan

    items = [Example(row, row) for row in rows.tolist()]
    opened = BaseModel("base", base, "0")
    shape = Shape.of(opened.config, weights=0, trained=0)
    planned = plan(shape, longest=LENGTH, dtype="float32", device="cpu", free=free_memory("cpu"), checkpointing=None)
    model = load(
        base, rank=16, alpha=32, dropout=0.0, target_modules=None, dtype="float32", device="cpu",
        gradient_checkpointing=False, quantization=None, from_adapter=None, seed=1,
    )  # fmt: skip
    yield
    if not training:
        scorer = Scorer(model, planned.evaluation_tokens, lambda _: None, lambda: None)
        sum(float(scores.log_probs_N.sum()) for _, scores in scorer.passes(items) if scores is not None)
        return
    for group in micro_batches([LENGTH] * ROWS, planned.token_cap):
        scores = model.score(collate([items[number] for number in group]), training=True)
        (-scores.log_probs_N.sum() / (ROWS * LENGTH)).backward()  # type: ignore[no-untyped-call]


def _now() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    main()
