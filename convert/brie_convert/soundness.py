"""`python -m brie_convert.soundness FILE`: whether a GGUF or safetensors file is what its header says, within limits.

It believes nothing: it gives itself 200 MB and a few seconds before it opens the file, reads the header alone, and says
in one line of JSON what is there, or why the file is refused. It knows no model, no digest and no llama.cpp.
"""

import json
import math
import resource
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from brie_core.weights.gguf_header import BrokenGgufFile, GgufTensor, read_gguf_header

MEMORY_BYTES, CPU_SECONDS = 200 * 10**6, 5
_MAX_JSON = 16 * 2**20
_MAX_NAME = 63
_MAX_ELEMENTS = 2**50

# ggml's number -> name, numbers in a block, bytes of a block.
GGML_TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    30: ("BF16", 1, 2),
    28: ("F64", 1, 8),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    41: ("Q1_0", 128, 18),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    22: ("IQ2_S", 256, 82),
    18: ("IQ3_XXS", 256, 98),
    21: ("IQ3_S", 256, 110),
    19: ("IQ1_S", 256, 50),
    29: ("IQ1_M", 256, 56),
    20: ("IQ4_NL", 32, 18),
    23: ("IQ4_XS", 256, 136),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a sound file holds."""

    format: str
    """gguf or safetensors."""
    kind: str
    """For a GGUF its general.type: model, adapter, ..."""
    architecture: str | None
    tensors: int
    weights: dict[str, int]
    """How many numbers are of each type."""
    bytes: int
    """Of all tensors."""


def contents(file: Path) -> Contents:
    """Read the header; raises ValueError with what is wrong, or OSError."""
    with file.open("rb") as stream:
        magic = stream.read(4)
    return _gguf(file) if magic == b"GGUF" else _safetensors(file)


def _gguf(file: Path) -> Contents:
    header = read_gguf_header(file)
    end, names = 0, set()
    for tensor in header.tensors:
        if len(tensor.name.encode()) > _MAX_NAME or tensor.name in names:
            raise BrokenGgufFile(f"the tensor name {tensor.name[:80]!r} is too long, or there twice")
        names.add(tensor.name)
        if tensor.offset != end:
            raise BrokenGgufFile(f"{tensor.name} overlaps its neighbour, or leaves a hole, or is not aligned")
        end += -(-_size(tensor) // header.alignment) * header.alignment
    data = sum(map(_size, header.tensors))
    if not names:
        raise BrokenGgufFile("it holds no tensor")
    _check_end(file, header.data_start + header.tensors[-1].offset + _size(header.tensors[-1]))
    kind = header.fields.get("general.type", "model")
    weights = _tally((GGML_TYPES[tensor.kind][0], math.prod(tensor.shape)) for tensor in header.tensors)
    return Contents("gguf", str(kind), header.text("general.architecture"), len(header.tensors), weights, data)


def _size(tensor: GgufTensor) -> int:
    if tensor.kind not in GGML_TYPES:
        raise BrokenGgufFile(f"{tensor.name} is of the type {tensor.kind}, of which nothing is known here")
    _, block, size = GGML_TYPES[tensor.kind]
    elements = math.prod(tensor.shape)
    if not 0 < elements <= _MAX_ELEMENTS:
        raise BrokenGgufFile(f"{tensor.name} has the shape {tensor.shape}")
    if tensor.shape[-1] % block:
        raise BrokenGgufFile(f"{tensor.name} has rows of {tensor.shape[-1]}, which its type has no blocks for")
    return elements // block * size


def _check_end(file: Path, end: int) -> None:
    if end > (size := file.stat().st_size):
        raise BrokenGgufFile(f"it ends after {size} bytes, where its header promises {end}")


def _safetensors(file: Path) -> Contents:
    from brie_core.weights.safetensors import read_tensors  # brings numpy, which a GGUF does not need

    tensors = read_tensors(file, _MAX_JSON)
    if not tensors:
        raise ValueError("it holds no tensor")
    weights = _tally((tensor.dtype, math.prod(tensor.shape)) for tensor in tensors.values())
    size = sum(tensor.size for tensor in tensors.values())
    return Contents("safetensors", "tensors", None, len(tensors), weights, size)


def _tally(counted: Iterable[tuple[str, int]]) -> dict[str, int]:
    weights: Counter[str] = Counter()
    for kind, count in counted:
        weights[kind] += count
    return dict(weights)


def main(arguments: Sequence[str]) -> int:
    """One line of JSON: what the file holds, or {"error": why it is refused}, and then exit status 1."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    with suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        answer = asdict(contents(Path(arguments[0])))
    except MemoryError:
        answer = {"error": f"its header takes more than {MEMORY_BYTES // 10**6} MB to read"}
    except OSError as error:
        answer = {"error": f"it cannot be read: {error.strerror}"}
    except ValueError as error:
        answer = {"error": str(error)[:500]}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
