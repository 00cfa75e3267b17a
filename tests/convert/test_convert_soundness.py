"""Hostile and broken files: each is refused with its reason, at once, in little memory, and never reaches llama.cpp."""

import json
import os
import random
import resource
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from brie_convert.soundness import GGML_TYPES, MEMORY_BYTES, contents
from brie_core.weights.base_model import BaseModel

Checkpoint = Callable[[str], BaseModel]
WriteFile = Callable[..., Path]


def _text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def _field(name: bytes, kind: int, value: bytes) -> bytes:
    return _text(name) + struct.pack("<I", kind) + value


def _tensor(name: bytes = b"a", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


_ARCHITECTURE = _field(b"general.architecture", 8, _text(b"llama"))


def _gguf(
    *tensors: bytes,
    fields: tuple[bytes, ...] = (),
    counts: tuple[int, int] | None = None,
    version: int = 3,
    data: int = 4096,
) -> bytes:
    every = (_ARCHITECTURE, *fields)
    stated = counts or (len(tensors), len(every))
    return b"GGUF" + struct.pack("<IQQ", version, *stated) + b"".join((*every, *tensors)) + bytes(data)


_HUGE = 2**62
_HOSTILE_GGUF: dict[str, tuple[bytes, str]] = {
    "version": (_gguf(_tensor(), version=99), "version 99"),
    "tensor count": (_gguf(_tensor(), counts=(_HUGE, 1)), "promises 4611686018427387904 tensors"),
    "field count": (_gguf(_tensor(), counts=(1, _HUGE)), "promises 4611686018427387904 fields"),
    "count beyond the end": (_gguf(_tensor(), counts=(60_000, 1), data=0), "cut off"),
    "name length": (_gguf(fields=(struct.pack("<Q", _HUGE),)), "bytes in one text"),
    "text length": (_gguf(fields=(_field(b"x", 8, struct.pack("<Q", 2**63)),)), "bytes in one text"),
    "text beyond the end": (_gguf(fields=(_field(b"x", 8, struct.pack("<Q", 9999)),)), "cut off"),
    "array count": (_gguf(fields=(_field(b"x", 9, struct.pack("<IQ", 4, _HUGE)),)), "cut off"),
    "text array count": (_gguf(fields=(_field(b"x", 9, struct.pack("<IQ", 8, _HUGE)),)), "texts in one array"),
    "a million texts": (_gguf(fields=(_field(b"x", 9, struct.pack("<IQ", 8, 2**20)),), data=2**23 - 99), "cut off"),
    "nested arrays": (_gguf(fields=(_field(b"x", 9, struct.pack("<IQ", 9, 1) * 5000),)), "array of arrays"),
    "unknown field type": (_gguf(fields=(_field(b"x", 77, bytes(8)),)), "damaged"),
    "field twice": (_gguf(_tensor(), fields=(_ARCHITECTURE,)), "twice"),
    "no architecture": (_gguf(_tensor()).replace(b"general.arch", b"general.arcx"), "lacks general.architecture"),
    "dimensions": (_gguf(_tensor(shape=(1,) * 9)), "dimensions"),
    "dimension count": (_gguf(_text(b"a") + struct.pack("<I", 2**32 - 1)), "dimensions"),
    "product that overflows": (_gguf(_tensor(shape=(2**33, 2**33, 2**33))), "has the shape"),
    "no element": (_gguf(_tensor(shape=(0,))), "has the shape"),
    "unknown tensor type": (_gguf(_tensor(kind=1000)), "of the type 1000"),
    "row that is no block": (_gguf(_tensor(shape=(33,), kind=8)), "no blocks for"),
    "offset past the end": (_gguf(_tensor(offset=2**40)), "overlaps"),
    "data past the end": (_gguf(_tensor(shape=(2**30,))), "ends after"),
    "overlap": (_gguf(_tensor(b"a"), _tensor(b"b", offset=64)), "b overlaps"),
    "misaligned": (_gguf(_tensor(b"a", (8,)), _tensor(b"b", (8,), offset=33)), "b overlaps"),
    "tensor twice": (_gguf(_tensor(b"a"), _tensor(b"a", offset=128)), "there twice"),
    "long tensor name": (_gguf(_tensor(b"a" * 64)), "too long"),
    "name that is no text": (_gguf(_tensor(b"\xff\xfe")), "damaged"),
    "alignment zero": (_gguf(_tensor(), fields=(_field(b"general.alignment", 4, bytes(4)),)), "alignment"),
    "alignment 33": (_gguf(_tensor(), fields=(_field(b"general.alignment", 4, struct.pack("<I", 33)),)), "alignment"),
    "alignment a text": (_gguf(_tensor(), fields=(_field(b"general.alignment", 8, _text(b"32")),)), "alignment"),
    "no tensor": (_gguf(), "no tensor"),
    "only magic": (b"GGUF", "cut off"),
}


def _safetensors(header: bytes, data: int = 64, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + bytes(data)


def _entry(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]} | changes
    return json.dumps({"a": entry}).encode()


_HOSTILE_SAFETENSORS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "truncated"),
    "header length": (_safetensors(b"{}", length=2**63), "header of"),
    "header beyond the end": (_safetensors(b"{}", length=5000), "truncated"),
    "deep": (_safetensors(b"[" * 10**6), "unreadable header"),
    "deep objects": (_safetensors(b'{"a":' * 10**6), "unreadable header"),
    "no JSON": (_safetensors(b"\x00" * 100), "unreadable header"),
    "a list": (_safetensors(b"[1]"), "no object"),
    "long number": (_safetensors(_entry(shape=[1]).replace(b"[1]", b"[" + b"9" * 10**6 + b"]")), "unreadable header"),
    "wide number": (_safetensors(_entry(shape=[10**4000])), "does not match"),
    "many dimensions": (_safetensors(_entry(shape=[10**4000] * 1000)), "does not match"),
    "negative": (_safetensors(_entry(shape=[-16])), "does not match"),
    "past the end": (_safetensors(_entry(shape=[1024], data_offsets=[0, 4096])), "its header promises 4096"),
    "backwards": (_safetensors(_entry(data_offsets=[64, 0])), "does not match"),
    "offsets that are words": (_safetensors(_entry(data_offsets=["0", "64"])), "does not match"),
    "unknown type": (_safetensors(_entry(dtype="F1")), "does not match"),
    "type a list": (_safetensors(_entry(dtype=[])), "malformed"),
    "entry a number": (_safetensors(b'{"a": 1}'), "malformed"),
    "hole": (_safetensors(_entry(data_offsets=[32, 96]), 96), "hole"),
    "no tensor": (_safetensors(b"{}", 0), "no tensor"),
    "overlap": (
        _safetensors(json.dumps({n: json.loads(_entry())["a"] for n in "ab"}).encode()),
        "overlaps its neighbour",
    ),
}


def _refused(data: bytes, file: Path) -> str:
    file.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        contents(file)
    return str(caught.value)


@pytest.mark.parametrize("name", list(_HOSTILE_GGUF))
def test_a_hostile_gguf_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    data, reason = _HOSTILE_GGUF[name]
    assert reason in _refused(data, tmp_path / "file.gguf")


@pytest.mark.parametrize("name", list(_HOSTILE_SAFETENSORS))
def test_a_hostile_safetensors_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    data, reason = _HOSTILE_SAFETENSORS[name]
    assert reason in _refused(data, tmp_path / "file.safetensors")


def test_what_the_hostile_ones_are_made_from_is_sound(tmp_path: Path) -> None:
    file = tmp_path / "file.gguf"
    file.write_bytes(_gguf(_tensor(b"a"), _tensor(b"b", offset=128)))
    assert contents(file).weights == {"F32": 64}
    file.write_bytes(_safetensors(_entry()))
    assert contents(file).weights == {"F32": 16}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_gguf(fields=(_field(b"x", 9, struct.pack("<IQ", 8, 2**20)),), data=2**23 + 10**6), "cut off|no tensor"),
        (_gguf(*(_tensor(str(i).encode(), offset=i) for i in range(60_000))), "overlaps"),
        (_safetensors(b"[" + b"{}," * (5 * 10**6) + b"{}]"), "MB to read"),
        (_safetensors(b'{"a":' + b"[" * 10**6), "unreadable"),
        (_safetensors(b"{" + b" " * 17 * 10**6), "are read"),
        (_safetensors(_entry(shape=[10**4000] * 3000)), "does not match"),
    ],
    ids=["texts", "tensors", "objects", "deep", "gigantic", "digits"],
)
def test_the_dearest_are_refused_in_a_second_of_time_and_200_mb(data: bytes, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = subprocess.run(
        [sys.executable, "-m", "brie_convert.soundness", str(file)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert told.returncode == 1, told.stderr
    error = json.loads(told.stdout)["error"]
    assert any(part in error for part in reason.split("|")), error
    # Processor time: the clock of a machine that others use says little.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert MEMORY_BYTES == 200 * 10**6


def test_the_limits_hold_in_the_process_that_reads(tmp_path: Path) -> None:
    limit = "resource.getrlimit(resource.RLIMIT_AS)[0]"
    probe = f"import brie_convert.soundness as s, resource; s.main(['/dev/null']); print({limit})"
    told = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == str(MEMORY_BYTES)


def test_a_header_with_any_byte_changed_is_read_or_refused_and_nothing_else(
    checkpoint: Checkpoint, write_file: WriteFile, tmp_path: Path
) -> None:
    whole, dice = write_file(checkpoint("llama"), "q8_0").read_bytes(), random.Random(0)
    file, refused = tmp_path / "changed.gguf", 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(dice.choice((1, 1, 4))):
            data[dice.randrange(4, 40_000 if dice.random() < 0.5 else 400)] = dice.randrange(256)
        file.write_bytes(data[: dice.choice((len(data), dice.randrange(len(data))))])
        started = time.process_time()
        try:
            contents(file)
        except ValueError:
            refused += 1
        assert time.process_time() - started < 1
    assert refused > 100


@pytest.mark.parametrize("quantization", ["f32", "f16", "bf16", "q8_0"])
def test_what_brie_writes_is_sound(checkpoint: Checkpoint, write_file: WriteFile, quantization: str) -> None:
    found = contents(write_file(checkpoint("llama3"), quantization))
    assert (found.format, found.kind, found.architecture) == ("gguf", "model", "llama")
    assert found.weights.keys() == {"F32", quantization.upper()}


def test_what_safetensors_writes_is_sound(tmp_path: Path) -> None:
    save_file({"a": np.zeros((3, 4), np.float16), "b": np.ones(5, np.float32)}, tmp_path / "x.safetensors")
    found = contents(tmp_path / "x.safetensors")
    assert (found.format, found.tensors, found.weights, found.bytes) == ("safetensors", 2, {"F16": 12, "F32": 5}, 44)


def test_the_types_are_ggmls() -> None:
    theirs: Mapping[Any, tuple[int, int]] = gguf.GGML_QUANT_SIZES
    assert {kind.value: (kind.name, *sizes) for kind, sizes in theirs.items()} == GGML_TYPES
