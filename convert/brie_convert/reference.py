"""`python -m brie_convert.reference FOLDER`: what transformers and PEFT compute, in float32. It knows no GGUF.

FOLDER/request.json names the base, the adapter and token ids. It answers with importance.npz (mean squared inputs of
every linear layer, over the calibration tokens), logits.f32 (a row per evaluation token) and, last of all, done.json.
This is the one module of the package that imports torch, and it is only ever run as a process of its own.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from brie_core.lifeline import die_with_parent

REQUEST, IMPORTANCE, LOGITS, DONE = "request.json", "importance.npz", "logits.f32", "done.json"
_ROWS = 64


def main(arguments: Sequence[str]) -> int:
    """Exit status 0 when done.json is there."""
    folder = Path(arguments[0])
    request = json.loads((folder / REQUEST).read_text())
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        model = _load(request["base"], request["adapter"])
        if request["calibration"]:
            _write_importance(model, request["calibration"], folder / IMPORTANCE)
        columns = _write_logits(model, request["evaluation"], folder / LOGITS)
    names = ("torch", "transformers", *(("peft",) if request["adapter"] else ()))
    done = {"columns": columns, "versions": {name: version(name) for name in names}}
    _rename_into(folder / DONE, json.dumps(done).encode())
    return 0


def _load(base: str, adapter: str | None) -> Any:
    # Eager attention, because it alone applies every family's soft caps and windows.
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    if adapter:
        import peft

        model = peft.PeftModel.from_pretrained(model, adapter)
    return model.eval()


def _write_logits(model: Any, windows: Sequence[Sequence[int]], file: Path) -> int:
    """A row of logits per token, one window after the other; returns their number per row."""
    columns = 0
    with file.open("wb") as stream:
        for window in windows:
            logits = model(torch.tensor([window]), use_cache=False).logits[0]
            columns = logits.shape[1]
            for start in range(0, len(window), _ROWS):
                stream.write(np.ascontiguousarray(logits[start : start + _ROWS].float().numpy()).data)
    return columns


def _write_importance(model: Any, windows: Sequence[Sequence[int]], file: Path) -> None:
    sums: dict[str, Any] = {}
    with _hooked(model, sums):
        for window in windows:
            # The output matrix needs no entry, and its logits no memory.
            model(torch.tensor([window]), use_cache=False, logits_to_keep=1)
    tokens = sum(len(window) for window in windows)
    partial = file.with_suffix(".part")
    with partial.open("wb") as stream:
        np.savez(stream, **{name: (total / tokens).numpy() for name, total in sums.items()})
    partial.replace(file)


@contextmanager
def _hooked(model: Any, sums: dict[str, Any]) -> Iterator[None]:
    """While it lasts, the squares of what goes into each linear layer of the base add up in `sums`."""
    hooks = [
        module.register_forward_pre_hook(_adding(name, sums))
        for full, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and (name := _checkpoint_name(full))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _adding(name: str, sums: dict[str, Any]) -> Any:
    def add(_module: Any, inputs: tuple[Any, ...]) -> None:
        values = inputs[0].reshape(-1, inputs[0].shape[-1])
        total = values.square().sum(0, dtype=torch.float64)
        sums[name] = sums[name] + total if name in sums else total

    return add


def _checkpoint_name(module: str) -> str | None:
    """A layer's name in the checkpoint, whatever PEFT wraps around it; None for PEFT's own layers and the output."""
    if ".lora_" in module or module.endswith("lm_head"):
        return None
    return module.removeprefix("base_model.model.").removesuffix(".base_layer")


def _rename_into(file: Path, data: bytes) -> None:
    partial = file.with_suffix(".part")
    partial.write_bytes(data)
    partial.replace(file)


if __name__ == "__main__":
    die_with_parent()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main(sys.argv[1:]))
