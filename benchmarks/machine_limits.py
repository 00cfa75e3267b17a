"""How fast this machine can be: memory bandwidth, matrix products, and the engine's own linear layers against both.

    python benchmarks/machine_limits.py [--seconds 1] [--dtypes float32,bfloat16]

A decode step reads every weight once, so bandwidth / weight bytes bounds the steps per second; a prompt's tokens are
bounded by the products. It knows torch and the layer that the engine multiplies with, and no server.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import machine
from brie_core.settings import Settings
from brie_core.weights.base_model import BaseModel
from brie_core.weights.resolve import resolve_base_model
from brie_server.engine.torch.device import choose_dtype
from brie_server.engine.torch.linear import Linear, linear

_BYTES = 2**29
"""More than any cache holds."""
_SIZE = 2048
_ROWS = (1, 8, 32, 256)


def best_seconds(work: Callable[[], object], seconds: float) -> float:
    """The shortest of as many calls as fit: the machine undisturbed."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def bandwidth(seconds: float) -> tuple[float, float]:
    """GB/s of reading, and of copying with both directions counted."""
    source = torch.ones(_BYTES // 4)
    target = torch.empty_like(source)
    reading = _BYTES / best_seconds(source.sum, seconds)
    copying = 2 * _BYTES / best_seconds(lambda: target.copy_(source), seconds)
    return reading / 1e9, copying / 1e9


def product_rate(dtype: torch.dtype, seconds: float) -> float:
    """GFLOP/s of one square product."""
    a, b = torch.randn(_SIZE, _SIZE).to(dtype), torch.randn(_SIZE, _SIZE).to(dtype)
    return 2 * _SIZE**3 / best_seconds(lambda: a @ b, seconds) / 1e9


def linear_weights(base: BaseModel, dtype: torch.dtype) -> list[Tensor]:
    """Every matrix that a step multiplies with, of the model's shapes, the output layer included."""
    shapes = [*base.linear_modules.values(), (int(base.config["vocab_size"]), int(base.config["hidden_size"]))]
    return [torch.randn(shape).to(dtype) for shape in shapes]


def step_lines(base: BaseModel, dtype: torch.dtype, seconds: float) -> list[str]:
    """The engine's own layers, one after another as in a step, for several numbers of rows."""
    weights = linear_weights(base, dtype)
    layers = [linear(weight) for weight in weights]
    num_bytes, values = sum(weight.nbytes for weight in weights), sum(weight.numel() for weight in weights)
    lines = []
    for rows in _ROWS:
        inputs = {weight.shape[1]: torch.randn(rows, weight.shape[1]).to(dtype) for weight in weights}
        took = best_seconds(lambda: _apply_all(layers, [inputs[weight.shape[1]] for weight in weights]), seconds)  # noqa: B023
        flops = f"{2 * values * rows / took / 1e9:.0f}"
        name = str(dtype).removeprefix("torch.")
        lines.append(
            f"| {name} | {rows} | {took * 1e3:.1f} | {num_bytes / took / 1e9:.1f} | {flops} | {rows / took:.0f} |"
        )
    return lines


def _apply_all(layers: Sequence[Linear], inputs: Sequence[Tensor]) -> None:
    for layer, x_NI in zip(layers, inputs, strict=True):
        layer.apply(x_NI)


def main() -> None:
    """Print the page."""
    machine.begin_as_a_server()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each figure")
    parser.add_argument("--dtypes", default="float32,auto", help="as BRIE_DTYPE, separated by commas")
    given = parser.parse_args()
    cpu = torch.device("cpu")
    dtypes = list(dict.fromkeys(choose_dtype(name, cpu) for name in given.dtypes.split(",")))
    reading, copying = bandwidth(given.seconds)
    print("\n".join(f"- {fact}" for fact in machine.facts()))
    print(f"- {torch.get_num_threads()} threads: reading {reading:.1f} GB/s, copying {copying:.1f} GB/s")
    for dtype in dtypes:
        print(f"- {dtype} product of {_SIZE} x {_SIZE}: {product_rate(dtype, given.seconds):.0f} GFLOP/s")
    print(
        "\n| layers of a step in | rows | ms | weights GB/s | GFLOP/s | tokens/s at most |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory(prefix="brie-benchmark-") as work, torch.inference_mode():
        base = resolve_base_model(Settings(home=Path(work)))
        for dtype in dtypes:
            print("\n".join(step_lines(base, dtype, given.seconds)))


if __name__ == "__main__":
    main()
