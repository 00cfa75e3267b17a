"""The format gguf_adapter: a LoRA adapter for llama.cpp's runtime, tried over its base. It knows no request's path.

The proof does not share the writer's arithmetic: every tensor is read back from the file, its rows put back in the
checkpoint's order by their numbers, and held against alpha / rank as llama.cpp applies it.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import gguf
import numpy as np
import numpy.typing as npt

from brie_convert.architecture import Architecture
from brie_convert.file_names import safe_name
from brie_convert.llama_runtime import open_file
from brie_convert.manifest import ExportRequest, Made, Sources
from brie_convert.outputs.gguf_model import GgufContents, architecture_facts, origin
from brie_convert.progress import Progress, span
from brie_core.errors import EngineFailure
from brie_core.weights.gguf_adapter import write_gguf_adapter
from brie_core.weights.gguf_layout import regrouped_heads, tensor_of
from brie_core.weights.lora import LoraAdapter, LoraModule

_QUESTION = [{"role": "user", "content": "What is virtue?"}]
_ANSWER_TOKENS = 16
_TOLERANCE = 1e-6
"""Of a module's largest number: one rounding to f32 on the way in, one on the way back."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class AdapterVerification:
    """What was read back and tried."""

    tensors: int
    """All of them, each compared."""
    largest_difference: float
    """Of scale * B, relative to the module's largest number."""
    answer: str
    """What the base said with the adapter, greedily, in a few tokens."""


class GgufAdapterOutput:
    """See `pipeline.Output`."""

    def __init__(self, request: ExportRequest, sources: Sources) -> None:
        """Raises InvalidRequest for a base that llama.cpp would not compute as it is."""
        assert sources.adapter is not None
        self._adapter = sources.adapter
        self._request, self._sources = request, sources
        self._base = GgufContents(request, sources, None, "F16")

    def most_bytes(self) -> int:
        """The adapter in f32, and the base in f16 over which it is tried."""
        return self._base.num_bytes() + 2 * self._adapter.num_bytes

    def build(self, folder: Path, scratch: Path, progress: Progress) -> Made:
        """Write and verify; raises InvalidAdapter for a layer without a place, EngineFailure for a wrong file."""
        file = folder / f"{safe_name(self._request.model)}-lora.gguf"
        architecture = self._base.parts.architecture
        progress("writing the adapter", 0.05)
        write_gguf_adapter(file, self._adapter, architecture, origin(self._request))
        difference = read_back(file, self._adapter, architecture)
        base = scratch / "base.gguf"
        self._base.write(base, "f16", span(progress, "writing its base for the trial", 0.1, 0.7))
        progress("trying it in llama.cpp", 0.8)
        answer = self._try(base, file)
        base.unlink()
        verification = AdapterVerification(2 * len(self._adapter.modules), difference, answer)
        return Made([file.name], {**architecture_facts(architecture), "verification": asdict(verification)})

    def _try(self, base: Path, file: Path) -> str:
        tokenizer = self._sources.tokenizer
        prompt = tokenizer.render(_QUESTION, add_generation_prompt=True) if tokenizer.chat_template else "Virtue is"
        with open_file(base) as loaded, loaded.adapted(file):
            return tokenizer.decode(loaded.answer(tokenizer.encode(prompt), _ANSWER_TOKENS))


def read_back(file: Path, adapter: LoraAdapter, architecture: Architecture) -> float:
    """The largest difference between the file and the adapter; raises EngineFailure where it is more than rounding."""
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    wanted = {f"{tensor_of(module.name)}.lora_{side}" for module in adapter.modules for side in "ab"}
    if tensors.keys() != wanted:
        _fail(f"it holds {len(tensors)} tensors in place of {len(wanted)}")
    return max(_compare(module, tensors, alpha, architecture) for module in adapter.modules)


def _compare(module: LoraModule, tensors: dict[str, Any], alpha: float, architecture: Architecture) -> float:
    place = tensor_of(module.name)
    a, b = tensors[f"{place}.lora_a"], np.asarray(tensors[f"{place}.lora_b"], np.float64)
    if not np.array_equal(a, module.a.read_float32()):
        _fail(f"A of {module.name} is not the adapter's")
    applied = b * (alpha / b.shape[1])
    if heads := regrouped_heads(architecture.family, module.name, architecture.heads, architecture.kv_heads):
        applied = applied[_checkpoint_order(len(b), heads)]
    expected = module.b.read_float32().astype(np.float64) * module.scale
    largest = np.abs(expected).max() or 1.0
    difference = float(np.abs(applied - expected).max() / largest)
    if not difference <= _TOLERANCE:
        _fail(f"B of {module.name} is off by {difference:.1e}")
    return difference


def _checkpoint_order(rows: int, heads: int) -> npt.NDArray[np.int64]:
    """For each row of the checkpoint, where llama.cpp's file has it: half h, pair i of a head lie at 2i + h."""
    size = rows // heads
    head, within = np.divmod(np.arange(rows), size)
    half, pair = np.divmod(within, size // 2)
    order: npt.NDArray[np.int64] = head * size + 2 * pair + half
    return order


def _fail(what: str) -> NoReturn:
    raise EngineFailure(f"The exported adapter is not the model's: {what}.", code="export_verification_failed")
