"""Tokens a second of Brie's torch engine against transformers on one device, by streams. It knows no HTTP.

    python benchmarks/streams.py            # on BRIE_DEVICE, else CUDA, else MPS, else the CPU
    python benchmarks/streams.py --tiny     # a small shape, to see that the program itself works
    python benchmarks/streams.py --alone    # Brie, and Brie whose steps are not recorded

The model has the shape of Qwen2.5-0.5B and random weights, so that nothing is downloaded; speed does not depend on
their values. All systems get the same prompts and make as many tokens; what is timed begins after a warm-up and
includes the prompts, and for generate_batch the making of its cache. Prints a Markdown table.
"""

import argparse
import asyncio
import inspect
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers
from peft import LoraConfig, get_peft_model

from brie_core.weights.base_model import BaseModel, open_base_model
from brie_server.engine.base import Prompt, Sampling
from brie_server.engine.torch.device import choose_device, choose_dtype, choose_target, limits_for
from brie_server.engine.torch.engine import TorchEngine
from brie_server.engine.torch.target import Target

NUM_ADAPTERS = 8
QWEN = {"hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2}
QWEN |= {"intermediate_size": 4864, "vocab_size": 151_936, "max_position_embeddings": 4096}
TINY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
TINY |= {"intermediate_size": 128, "vocab_size": 1000, "max_position_embeddings": 512}


@dataclass(frozen=True)
class Setup:
    """What is measured on, and how often."""

    device: torch.device
    dtype: torch.dtype
    rounds: int

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}, {versions}; median of {self.rounds}"


@dataclass(frozen=True)
class Load:
    """What every system is asked, so many times at once."""

    streams: int
    prompt_tokens: int
    new_tokens: int
    vocab_size: int

    @property
    def prompts(self) -> list[list[int]]:
        """Random token ids, the same for all systems."""
        generator = torch.Generator().manual_seed(self.streams)
        shape = (self.streams, self.prompt_tokens)
        prompts: list[list[int]] = torch.randint(3, self.vocab_size, shape, generator=generator).tolist()
        return prompts


def main() -> None:
    """Measure and print."""
    options = _options()
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers gives it no types
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    device = choose_device(os.environ.get("BRIE_DEVICE", "auto"))
    setup = Setup(device, choose_dtype(options.dtype, device), options.rounds)
    shape, tokens = (TINY, 16) if options.tiny else (QWEN, 128)
    loads = [Load(streams, tokens, tokens, shape["vocab_size"]) for streams in options.streams]
    with tempfile.TemporaryDirectory() as folder:
        with device:
            base, adapters = _write_model(Path(folder), shape)
        rows = asyncio.run(_brie(base, adapters, setup, loads, "Brie"))
        if options.alone:
            with patch("brie_server.engine.torch.engine.choose_target", _unrecorded):
                rows |= asyncio.run(_brie(base, adapters, setup, loads, "Brie, each step computed"))
        else:
            rows |= _transformers(base.folder, setup, loads)
    print(f"\n{setup}; {tokens} + {tokens} tokens; tokens/s\n\n{_table(options.streams, rows)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    return parser.parse_args()


def _write_model(folder: Path, shape: dict[str, int]) -> tuple[BaseModel, list[Path]]:
    torch.manual_seed(0)
    options: dict[str, Any] = {**shape, "tie_word_embeddings": True}
    model: Any = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**options))
    model.bfloat16()
    model.save_pretrained(folder / "base")
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted: Any = get_peft_model(model, lora)
    adapters = []
    for number in range(NUM_ADAPTERS):
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        adapters.append(folder / f"adapter-{number}")
        adapted.save_pretrained(str(adapters[-1]))
    return open_base_model("shape", folder / "base", folder / "digests.json"), adapters


def _unrecorded(device: torch.device, dtype: torch.dtype) -> Target:
    return replace(choose_target(device, dtype), record=None)


async def _brie(
    base: BaseModel, adapters: list[Path], setup: Setup, loads: list[Load], name: str
) -> dict[str, list[float]]:
    limits = replace(limits_for(setup.device), max_rows=max(load.streams for load in loads), max_blocks=0)
    engine = TorchEngine(base, setup.device, setup.dtype, limits)
    rows: dict[str, list[str | None]] = {name: [None]}
    rows[f"{name}, {NUM_ADAPTERS} adapters"] = [folder.name for folder in adapters]
    try:
        for folder in adapters:
            await engine.load_adapter(folder.name, folder)
        return {
            row: _told(row, [await _brie_speed(engine, load, among, setup.rounds) for load in loads])
            for row, among in rows.items()
        }
    finally:
        await engine.aclose()


async def _brie_speed(engine: TorchEngine, load: Load, among: list[str | None], rounds: int) -> float:
    async def answer(number: int, ids: list[int]) -> int:
        prompt = Prompt(
            token_ids=tuple(ids),
            max_tokens=load.new_tokens,
            stop_ids=frozenset(),
            sampling=Sampling(temperature=0),
            adapter=among[number % len(among)],
        )
        return len([token async for token in engine.generate(prompt)])

    speeds = []
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        counts = await asyncio.gather(*(answer(number, ids) for number, ids in enumerate(load.prompts)))
        speeds.append(sum(counts) / (time.perf_counter() - begin))
    return statistics.median(speeds[1:])


def _transformers(folder: Path, setup: Setup, loads: list[Load]) -> dict[str, list[float]]:
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=setup.dtype)
    model = loaded.to(setup.device).eval()
    name = "transformers generate"
    rows = {name: _told(name, [_speed(partial(_generate, model, load), setup) for load in loads])}
    if not hasattr(model, "generate_batch"):
        print("transformers has no generate_batch here: left out")
        return rows
    try:
        name = "transformers generate_batch"
        rows[name] = _told(name, [_speed(partial(_generate_batch, model, load), setup) for load in loads])
    except Exception as error:  # noqa: BLE001  # it needs kernels that not every device has; the rest still counts
        print(f"transformers generate_batch fails here: {type(error).__name__} {error}")
    return rows


def _told(row: str, speeds: list[float]) -> list[float]:
    """Said at once, should the next system not end."""
    print(row, *(f"{speed:.0f}" for speed in speeds), flush=True)
    return speeds


def _speed(run: Callable[[], int], setup: Setup) -> float:
    speeds = []
    for _ in range(setup.rounds + 1):
        begin = time.perf_counter()
        count = run()
        _synchronize(setup.device)
        speeds.append(count / (time.perf_counter() - begin))
    return statistics.median(speeds[1:])


def _generate(model: Any, load: Load) -> int:
    ids = torch.tensor(load.prompts, device=model.device)
    how = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=load.new_tokens, **how)
    return int(out.shape[0] * (out.shape[1] - ids.shape[1]))


def _generate_batch(model: Any, load: Load) -> int:
    make: Any = transformers.GenerationConfig
    how = make(max_new_tokens=load.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    more = {"progress_bar": False} if "progress_bar" in inspect.signature(model.generate_batch).parameters else {}
    outputs = model.generate_batch(inputs=load.prompts, generation_config=how, **more)
    count = sum(len(output.generated_tokens) for output in outputs.values())
    if count != load.streams * load.new_tokens:
        raise RuntimeError(f"it made {count} tokens of {load.streams * load.new_tokens}")
    return count


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _table(streams: list[int], rows: dict[str, list[float]]) -> str:
    lines = ["| system | " + " | ".join(f"{number} streams" for number in streams) + " |"]
    lines.append("|---|" + "---:|" * len(streams))
    lines += [f"| {name} | " + " | ".join(f"{speed:.1f}" for speed in speeds) + " |" for name, speeds in rows.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
