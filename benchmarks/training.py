"""Brie's training against the recipe this project began from, on the same rows, one after the other in turns.

    python benchmarks/training.py ROWS.jsonl [--epochs 2] [--rounds 1] [--device cuda]

The recipe is TRL's SFTTrainer as its author wrote it: batch 2 x 4, 1,024 tokens, rank 16 on q and v, gradient
checkpointing, float32. Brie is told epochs and the device, and nothing else. Both train on all rows but the last
fifth; one evaluator, of transformers and PEFT alone, then judges both adapters on that fifth: loss per assistant token.
Tokens are counted without padding, over the time of steps alone, and over whole processes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from brie_core.libraries import environment_for_child, prepare_libraries
from brie_core.settings import Settings
from brie_core.text.tokenizer import Tokenizer
from brie_core.weights.resolve import resolve_base_model

HERE = Path(__file__)


def main() -> None:
    arguments = _arguments()
    if arguments.part:
        _PARTS[arguments.part](Path(arguments.rows), arguments.epochs, arguments.device)
        return
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as scratch:
        base = resolve_base_model(Settings(home=Path(scratch))).folder
        training, validation = _split(Path(arguments.rows), Path(scratch))
        told = ["--epochs", str(arguments.epochs), "--device", arguments.device]
        found = [_round(base, training, validation, told) for _ in range(arguments.rounds)]
    figures = {
        name: {key: statistics.median(each[name][key] for each in found) for key in found[0][name]} for name in found[0]
    }
    ratio = figures["brie"]["tokens_per_second"] / figures["recipe"]["tokens_per_second"]
    print(json.dumps(figures, indent=1))
    print(f"Brie trains {ratio:.2f} times as many tokens per second; validation loss "
          f"{figures['brie']['valid_loss']:.4f} against {figures['recipe']['valid_loss']:.4f}")  # fmt: skip
    if arguments.output:
        kept = {"figures": figures, "ratio": ratio, "rounds": arguments.rounds, "told": told, "each": found}
        arguments.output.write_text(json.dumps(kept, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", choices=("recipe", "brie", "judge"), help=argparse.SUPPRESS)
    return parser.parse_args()


def _split(rows: Path, folder: Path) -> tuple[Path, Path]:
    lines = rows.read_text().splitlines(keepends=True)
    held_out = max(len(lines) // 5, 1)
    training, validation = folder / "training.jsonl", folder / "validation.jsonl"
    training.write_text("".join(lines[:-held_out]))
    validation.write_text("".join(lines[-held_out:]))
    return training, validation


def _round(base: Path, training: Path, validation: Path, told: list[str]) -> dict[str, dict[str, float]]:
    """Each in a process of its own; the recipe with the environment that its user would have."""
    found = {}
    for name, environment in (("recipe", dict(os.environ)), ("brie", environment_for_child(os.environ))):
        output = Path(tempfile.mkdtemp(prefix="brie-benchmark-"))
        folders = {"BENCHMARK_BASE": str(base), "BENCHMARK_OUT": str(output), "BENCHMARK_VALIDATION": str(validation)}
        began = time.monotonic()
        _run(name, training, told, environment | folders)
        seconds = time.monotonic() - began
        _run("judge", validation, told, environment | folders)
        figures = json.loads((output / "figures.json").read_text()) | json.loads((output / "judged.json").read_text())
        found[name] = figures | {"process_seconds": seconds}
        print(name, found[name], flush=True)
    return found


def _run(part: str, rows: Path, told: list[str], environment: dict[str, str]) -> None:
    command = [sys.executable, str(HERE), str(rows), *told, "--part", part]
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL)


def recipe(rows: Path, epochs: int, device: str) -> None:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    base, out = os.environ["BENCHMARK_BASE"], Path(os.environ["BENCHMARK_OUT"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    messages = [json.loads(line)["messages"] for line in rows.read_text().splitlines()]
    texts = [tokenizer.apply_chat_template(each, tokenize=False) for each in messages]
    steps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            steps.append(-time.monotonic())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps[-1] += time.monotonic()

    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=SFTConfig(
            output_dir=str(out / "checkpoints"), num_train_epochs=epochs, per_device_train_batch_size=2,
            gradient_accumulation_steps=4, learning_rate=2e-4, max_length=1024, gradient_checkpointing=True, bf16=False,
            use_cpu=device == "cpu", report_to="none", save_strategy="no", seed=1,
        ),
        train_dataset=Dataset.from_list([{"text": text} for text in texts]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
        callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(out / "adapter"))
    tokens = sum(min(len(tokenizer(text)["input_ids"]), 1024) for text in texts) * epochs
    _write_figures(out, tokens, sum(steps))


def brie(rows: Path, epochs: int, device: str) -> None:
    from brie_trainer.training.attempt import attempt

    base, out = Path(os.environ["BENCHMARK_BASE"]), Path(os.environ["BENCHMARK_OUT"])
    names = "rank alpha dropout target_modules learning_rate eval_steps save_steps quantization early_stopping"
    names += " save_total_limit packing from_checkpoint gradient_checkpointing num_processes"
    spec = {
        "method": "supervised", "seed": 1, "training_file": "", "validation_file": None,
        "hyperparameters": {"n_epochs": epochs, "batch_size": None, "learning_rate_multiplier": None, "beta": None},
        "brie": {**dict.fromkeys(names.split()), "max_length": 1024, "dry_run": False},
    }  # fmt: skip
    job: dict[str, Any] = {
        "job_id": "ftjob-benchmark", "spec": spec, "device": device, "dtype": "auto", "earlier": [],
        "base": {"id": "base", "folder": str(base), "digest": "0"}, "from_adapter": None,
        "training_file": str(rows), "validation_file": None,
    }  # fmt: skip
    events: list[dict[str, Any]] = []
    last = attempt(out, job, events.append, lambda: False)
    steps = [event["data"] for event in events if event["type"] == "metrics" and "train_loss" in event["data"]]
    (out / "checkpoints" / f"checkpoint-{last['step']}").rename(out / "adapter")
    tokens = last["provenance"]["counts"]["tokens"] * epochs
    _write_figures(out, tokens, tokens / steps[-1]["tokens_per_second"])


def judge(rows: Path, _: int, device: str) -> None:
    """Loss per assistant token of the adapter in BENCHMARK_OUT, by transformers and PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from brie_trainer.data.dataset import read_conversations
    from brie_trainer.data.labels import build_examples

    base, out = Path(os.environ["BENCHMARK_BASE"]), Path(os.environ["BENCHMARK_OUT"])
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(out / "adapter")
    ).to(device)
    examples, _counts = build_examples(read_conversations(rows, "validation_file"), Tokenizer(base), 1024)
    loss, tokens = 0.0, 0
    with torch.no_grad():
        for example in examples:
            ids, labels = (torch.tensor([each], device=device) for each in (example.input_ids, example.labels))
            loss += float(model(input_ids=ids, labels=labels).loss) * (example.num_trained)
            tokens += example.num_trained
    (out / "judged.json").write_text(json.dumps({"valid_loss": loss / tokens, "valid_tokens": tokens}))


def _write_figures(out: Path, tokens: int, seconds: float) -> None:
    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    figures = {"tokens_per_second": tokens / seconds, "tokens": tokens, "step_seconds": seconds, "peak_rss_gib": peak}
    if torch.cuda.is_available():
        figures["peak_device_gib"] = torch.cuda.max_memory_allocated() / 2**30
    (out / "figures.json").write_text(json.dumps(figures))


_PARTS = {"recipe": recipe, "brie": brie, "judge": judge}

if __name__ == "__main__":
    prepare_libraries(os.environ) if "--part" in sys.argv and "brie" in sys.argv else None
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
