"""Exports as whole processes: seconds and peak memory, beside the script that ships with llama.cpp.

    python benchmarks/exporting.py --official LLAMA_CPP/convert_hf_to_gguf.py [--rounds 3] [--output FILE]

LLAMA_CPP is what the sdist of llama-cpp-python has under vendor/; it wants the package sentencepiece. SmolLM2 to F16 by
both, in turns; then by Brie alone a random adapter merged into q4_k_m, and 1.3 GB of random weights. Of a peak, pages
of mapped files are told apart: the system takes them back when it likes, and llama.cpp maps the whole file that it
verifies. Brie's exports are measured with and without the comparison of logits, which is a second process (transformers
in float32) beside the first.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from adapters import write_adapters
from brie_core.libraries import environment_for_child
from brie_core.settings import Settings
from brie_core.store.adapters import adapter_digest
from brie_core.weights.base_model import BaseModel, open_base_model
from brie_core.weights.lora import read_adapter
from brie_core.weights.resolve import resolve_base_model

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Run:
    """One process from its start to its end, without its children's memory."""

    seconds: float
    peak_mb: float
    """Resident, with pages of mapped files."""
    own_mb: float
    """The most that was resident and of no file."""
    written_s: float
    """Until the file was written and its verification began; the script ends there."""
    written_mb: float
    """The peak until then."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as scratch:
        found = _measure(Path(scratch), arguments.official, arguments.rounds)
    for name, run in found.items():
        print(f"{name:26} {run.seconds:6.2f} s {run.peak_mb:5.0f} MB, {run.own_mb:4.0f} of it no file's", end="; ")
        print(f"written after {run.written_s:.2f} s and {run.written_mb:.0f} MB")
    ours, official = found["smollm2 f16"], found["official f16"]
    print(
        f"written: {official.seconds / ours.written_s:.2f} times, {ours.written_mb / official.peak_mb:.0%} of memory;"
    )
    print(f"verified: {official.seconds / ours.seconds:.2f} times, {ours.peak_mb / official.peak_mb:.0%} of memory")
    if arguments.output:
        arguments.output.write_text(json.dumps({name: asdict(run) for name, run in found.items()}, indent=1) + "\n")


def _measure(scratch: Path, official: Path, rounds: int) -> dict[str, Run]:
    base = resolve_base_model(Settings(home=scratch / "home"))
    adapter = write_adapters(scratch / "adapters", base, 1)[0]
    large = _large(scratch)
    script = [
        sys.executable,
        str(official),
        str(base.folder),
        "--outtype",
        "f16",
        "--outfile",
        str(scratch / "official"),
    ]
    runs: dict[str, list[Run]] = {}
    for number in range(rounds):
        place = scratch / str(number)
        runs.setdefault("official f16", []).append(_process(script, dict(os.environ)))
        for name, arguments in {
            "smollm2 f16": (base, None, "f16", False),
            "smollm2 f16, compared": (base, None, "f16", True),
            "adapter q4_k_m": (base, adapter, "q4_k_m", False),
            "adapter q4_k_m, compared": (base, adapter, "q4_k_m", True),
            "1.3 GB f16": (large, None, "f16", False),
        }.items():
            runs.setdefault(name, []).append(_export(place / name, *arguments))
    return {name: _median(each) for name, each in runs.items()}


def _export(folder: Path, base: BaseModel, adapter: Path | None, quantization: str, compare: bool) -> Run:  # noqa: FBT001
    folder.mkdir(parents=True)
    job: dict[str, Any] = {
        "model": "benchmark",
        "base": {"id": base.id, "folder": str(base.folder), "digest": base.digest},
        "adapter": None,
        "quantization": quantization,
        "compare": compare,
        "output": str(folder / "output"),
    }
    if adapter:
        version = adapter_digest(read_adapter(adapter, base.linear_modules), base.digest)
        job["adapter"] = {"version": version, "folder": str(adapter)}
    (folder / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-m", "brie_convert.run", str(folder)]
    return _process(command, environment_for_child(os.environ), folder / "events.jsonl")


def _process(command: list[str], environment: dict[str, str], events: Path | None = None) -> Run:
    began = time.perf_counter()
    process = psutil.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    peak, own, written = 0.0, 0.0, None
    while process.poll() is None:
        fields = _status(process.pid)
        peak, own = max(peak, fields.get("VmHWM", 0.0)), max(own, fields.get("RssAnon", 0.0))
        if written is None and events and events.is_file() and "verifying" in events.read_text():
            written = (time.perf_counter() - began, peak)
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{command} ended with status {process.returncode}")
    return Run(seconds, peak, own, *(written or (seconds, peak)))


def _status(process: int) -> dict[str, float]:
    """Megabytes by name; empty once the process is gone."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        name: int(rest.split()[0]) * 1024 / _MB
        for name, _, rest in (line.partition(":") for line in lines)
        if rest.endswith("kB")
    }


def _median(runs: list[Run]) -> Run:
    return Run(*(median(values) for values in zip(*(asdict(run).values() for run in runs), strict=True)))


def _large(scratch: Path) -> BaseModel:
    """642 million random parameters in bf16, with SmolLM2's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = resolve_base_model(Settings(home=scratch / "home")).folder
    folder = scratch / "large"
    config = LlamaConfig(
        hidden_size=1536, intermediate_size=4096, num_hidden_layers=20, num_attention_heads=16, num_key_value_heads=8,
        vocab_size=49_152, tie_word_embeddings=True, max_position_embeddings=2048, eos_token_id=2, bos_token_id=1,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((tokenizer / name).read_bytes())
    return open_base_model("large", folder, scratch / "digests.json")


if __name__ == "__main__":
    main()
