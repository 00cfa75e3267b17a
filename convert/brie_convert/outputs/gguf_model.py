"""The format gguf: base and adapter as one file for llama.cpp, with a Modelfile. It knows stages, not bytes."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brie_convert.architecture import Architecture, read_architecture
from brie_convert.file_names import safe_name
from brie_convert.gguf_file import Contents, tally, write_gguf
from brie_convert.judgement import Judge, stored_in_words
from brie_convert.manifest import ExportRequest, Made, Parts, Sources
from brie_convert.metadata import Value, header
from brie_convert.modelfile import MODELFILE, modelfile
from brie_convert.plan import Storage, check_tied, plan_tensors
from brie_convert.progress import Advance, Progress, span
from brie_convert.proof import importance, proving
from brie_convert.quality import Divergence
from brie_convert.quantize import STREAMED, file_type, quantize
from brie_convert.room import check_not_full, free_bytes
from brie_convert.verify import expected, verify
from brie_convert.vocabulary import read_vocabulary
from brie_core.errors import EngineFailure
from brie_core.weights.lora import LoraAdapter

_BYTES = {"F32": 4.0, "F16": 2.0, "BF16": 2.0, "Q8_0": 34 / 32}


class GgufModelOutput:
    """See `pipeline.Output`."""

    def __init__(self, request: ExportRequest, sources: Sources) -> None:
        """Raises InvalidRequest for what llama.cpp would not compute as the model does."""
        self._quantization = request.quantization or ""
        self._request, self._sources = request, sources
        self._gguf = GgufContents(request, sources, sources.adapter, STREAMED.get(self._quantization))

    def most_bytes(self) -> int:
        """The file, and the exact one that llama.cpp quantizes."""
        written = self._gguf.num_bytes()
        # no quantization but Q8_0 keeps more than 8.5 bits a weight
        return (
            written if self._quantization in STREAMED else written + int(self._gguf.parts.parameters * _BYTES["Q8_0"])
        )

    def build(self, folder: Path, scratch: Path, progress: Progress) -> Made:
        """Write, quantize, verify; raises EngineFailure where llama.cpp does not agree with the model."""
        file, parts = folder / f"{safe_name(self._request.model)}-{self._quantization}.gguf", self._gguf.parts
        for limit in parts.architecture.limits:
            progress(limit, 0.01)
        with ThreadPoolExecutor(1) as aside, proving(self._request, parts, scratch / "reference") as judge:
            wanted = aside.submit(expected, parts.tokenizer, parts.vocabulary)
            fallbacks, before = self._write(file, scratch, judge, progress)
            progress("verifying against llama.cpp", 0.9)
            verification = verify(file, parts.tokenizer, parts.vocabulary, wanted.result())
            progress("comparing with transformers", 0.92)
            account = judge.account(judge.compare(file), before)
        (folder / MODELFILE).write_text(modelfile(file.name, self._sources))
        facts = {
            **architecture_facts(parts.architecture),
            "tensors": _tensors(file, self._quantization, fallbacks),
            "verification": asdict(verification),
        }
        return Made([file.name, MODELFILE], account.added_to(facts))

    def _write(self, file: Path, scratch: Path, judge: Judge, progress: Progress) -> tuple[int, Divergence | None]:
        """The file in one pass, or in two through llama.cpp's quantizer.

        Returns the quantizer's fallbacks, and how far from the model it was before.
        """
        kind = self._quantization
        if kind in STREAMED:
            self._gguf.write(file, kind, span(progress, "merging and writing", 0.05, 0.9))
            return 0, None
        # The checkpoint's own numbers, f32 where the adapter was merged: nothing is rounded before the quantizer.
        exact = scratch / "exact.gguf"
        self._gguf.write(exact, "f32", span(progress, "merging and writing", 0.05, 0.4))
        matrix, advance = importance(judge, self._gguf.parts), span(progress, f"quantizing to {kind}", 0.4, 0.9)
        try:
            fallbacks = quantize(exact, file, kind, advance, matrix)
        except EngineFailure:
            check_not_full(free_bytes(scratch))
            raise
        before = judge.compare(exact)  # so that a fault of ours cannot pass for the quantizer's rounding
        exact.unlink()
        return fallbacks, before


class GgufContents:
    """A model as GGUF, planned and not yet written; `storage` None keeps the checkpoint's own numbers."""

    def __init__(
        self, request: ExportRequest, sources: Sources, adapter: LoraAdapter | None, storage: Storage | None
    ) -> None:
        base = request.base
        architecture = read_architecture(base.config)
        tensors = plan_tensors(architecture, base.tensors, adapter, storage)
        check_tied(architecture, base.tensors)
        vocabulary = read_vocabulary(base.folder, sources.tokenizer, rows=tensors[0].source.shape[0])
        self.parts = Parts(architecture, vocabulary, sources.tokenizer, tensors)
        self._origin = origin(request)

    def num_bytes(self) -> int:
        """Of the tensors' data."""
        return sum(int(math.prod(tensor.source.shape) * _BYTES[tensor.storage]) for tensor in self.parts.tensors)

    def write(self, file: Path, kind: str, advance: Advance) -> None:
        """The file in one pass; `kind` is what its header says it is."""
        parts, values = self.parts, dict[str, Value](self._origin)
        fields = header(parts.architecture, parts.vocabulary, values, parts.parameters, file_type(kind))
        contents = Contents(parts.architecture.family, fields, parts.tensors, parts.architecture.rope_factors)
        write_gguf(file, contents, advance)


def architecture_facts(architecture: Architecture) -> dict[str, Any]:
    """What the manifest says of the model's shape, and of what is lost of it in llama.cpp."""
    return {
        "architecture": architecture.family,
        "context_length": architecture.context_length,
        "limits": list(architecture.limits),
    }


def origin(request: ExportRequest) -> dict[str, str]:
    """Names and digests; never a path, which would tell a stranger about this machine."""
    fields = {
        "general.name": request.model,
        "brie.base_model": Path(request.base.id).name,
        "brie.base_model.digest": request.base.digest,
    }
    return fields | ({"brie.adapter.version": request.adapter.version} if request.adapter else {})


def _tensors(file: Path, quantization: str, fallbacks: int) -> dict[str, Any]:
    written = tally(file)
    return {
        "types": dict(written.types),
        "fallbacks": fallbacks,
        "parameters": written.parameters,
        "bits_per_weight": round(written.bits_per_weight, 3),
        "stored": stored_in_words(quantization, written, fallbacks),
    }
