"""Writes a safetensors file tensor by tensor, in blocks. It knows the format, not what the tensors mean.

The `safetensors` package takes whole tensors, all at once: a model would have to be in memory.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brie_convert.progress import Advance

_ALIGNMENT = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the file to be."""

    name: str
    dtype: str
    """In the format's words: F32, BF16..."""
    shape: tuple[int, ...]
    size: int
    """In bytes."""
    blocks: Callable[[], Iterable[Any]]
    """The data in order, as buffers."""


def write_safetensors(file: Path, entries: Sequence[Entry], advance: Advance) -> None:
    """Header first, then one block after the other; raises ValueError for blocks that are not of the entry's size."""
    total, done = sum(entry.size for entry in entries) or 1, 0
    with file.open("wb") as stream:
        stream.write(_header(entries))
        for entry in entries:
            start = stream.tell()
            for block in entry.blocks():
                stream.write(block)
                advance((done + stream.tell() - start) / total)
            if stream.tell() - start != entry.size:
                raise ValueError(f"{entry.name} has {stream.tell() - start} bytes, not {entry.size}")
            done += entry.size


def _header(entries: Sequence[Entry]) -> bytes:
    # without this entry transformers refuses the file
    told: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for entry in entries:
        told[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": [at, at + entry.size]}
        at += entry.size
    text = json.dumps(told, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
