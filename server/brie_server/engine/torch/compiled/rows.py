"""The compiled functions as calls on tensors. It knows their signatures and what memory they need, and no model.

A C function trusts its pointers; so every tensor is checked here for what the function takes for granted.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from brie_server.engine.torch.compiled.build import load_rows

_POINTER, _INT, _FLOAT, _BOOL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_bool
_SUFFIXES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_SIGNATURES: dict[str, list[Any]] = {  # what each gives, then what it takes
    "norm": [None, *[_POINTER] * 4, _INT, _INT, _FLOAT, _BOOL],
    "silu": [None, _POINTER, _POINTER, _INT, _INT],
    "gelu": [None, _POINTER, _POINTER, _INT, _INT],
    "place": [_BOOL, *[_POINTER] * 6],
    "attend": [_BOOL, *[_POINTER] * 4, _FLOAT, _INT],
    "lora": [None, *[_POINTER] * 4],
}
MOST_HEAD_SIZE = 512
"""Of the heads that `attend` has room for."""
LANES = 16
"""Outputs that stand together in a group's b; what is adapted must be a multiple of it."""


class Heads(ctypes.Structure):
    """The shape of a layer's heads and of its cache, and the line of the cache that belongs to each token."""

    _fields_ = [
        *((name, _INT) for name in ("tokens", "query", "key", "size", "cache_rows", "capacity")),
        ("row_N", _POINTER),
        ("position_N", _POINTER),
    ]


class HeadNorm(ctypes.Structure):
    """The norm of query and key heads; no weight is no norm."""

    _fields_ = [("weight_JD", _POINTER), ("eps", _FLOAT), ("rounds", _BOOL)]


class Group(ctypes.Structure):
    """One adapter's part in a site, and which of the site's tokens have it."""

    _fields_ = [("a", _POINTER), ("b", _POINTER), ("rank", _INT), ("first", _INT), ("count", _INT)]


class Site(ctypes.Structure):
    """The shape of a site, the step's tokens sorted by group, the outputs of each part, and room in float32."""

    _fields_ = [
        *((name, _INT) for name in ("inputs", "width", "num_parts", "most_ranks", "num_groups")),
        *((name, _POINTER) for name in ("token_T", "outputs_P", "x_TI", "inner_TK")),
    ]


class Quantized(ctypes.Structure):
    """A weight in eight bits, a scale for each output, and a bias or none."""

    _fields_ = [
        *((name, _POINTER) for name in ("weight_OI", "scale_O", "bias_O")),
        *((name, _INT) for name in ("outputs", "inputs")),
    ]


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm's weight, and how it is applied."""

    weight_E: Tensor
    """In float32."""
    eps: float
    rounds: bool
    """Whether x / rms(x) is rounded to the activations' type before the weight comes to it."""


class Rows:
    """The functions for one type of activations."""

    def __init__(self, library: ctypes.CDLL, dtype: torch.dtype) -> None:
        self._dtype = dtype
        functions = {name: _function(library, name, dtype, types) for name, types in _SIGNATURES.items()}
        self._norm, self._place, self._attend = functions["norm"], functions["place"], functions["attend"]
        self._gates, self._lora = {name: functions[name] for name in ("silu", "gelu")}, functions["lora"]

    def norm(self, x_NE: Tensor, added_NE: Tensor | None, norm: Norm) -> Tensor:
        """Add `added_NE` to `x_NE` in place, if there is something to add; returns the sum's norm."""
        (rows, size), out_NE = x_NE.shape, torch.empty_like(x_NE)
        added = None if added_NE is None else self._pointer(added_NE, rows * size)
        x, weight = self._pointer(x_NE, rows * size), _pointer(norm.weight_E, torch.float32, size)
        self._norm(x, added, weight, out_NE.data_ptr(), rows, size, norm.eps, norm.rounds)
        return out_NE

    def gate(self, activation: str, gate_up_NF: Tensor) -> Tensor:
        """act(gate) * up, where the two stand side by side; `activation` is silu or gelu."""
        rows, size = gate_up_NF.shape[0], gate_up_NF.shape[1] // 2
        out_NF = torch.empty((rows, size), dtype=self._dtype)
        self._gates[activation](self._pointer(gate_up_NF, 2 * rows * size), out_NF.data_ptr(), rows, size)
        return out_NF

    def place(
        self, qkv_NO: Tensor, rotation: tuple[Tensor, Tensor], head_norm: HeadNorm, kv_2RHCD: Tensor, heads: Heads
    ) -> None:
        """Norm queries and keys and turn them by cos_Nd and sin_Nd, in place; write keys and values to the cache."""
        qkv, cache = self._qkv(qkv_NO, heads), self._cache(kv_2RHCD, heads)
        cos, sin = (self._pointer(each, heads.tokens * heads.size // 2) for each in rotation)
        _check(self._place(qkv, cos, sin, ctypes.addressof(head_norm), cache, ctypes.addressof(heads)))

    def attend(
        self, qkv_NO: Tensor, kv_2RHCD: Tensor, out_NO: Tensor, heads: Heads, scoring: tuple[float, int]
    ) -> None:
        """What each query, alone in its row, sees up to its position; `scoring` is scale and window, 0 for all."""
        qkv, cache = self._qkv(qkv_NO, heads), self._cache(kv_2RHCD, heads)
        out = self._pointer(out_NO, heads.tokens * heads.query * heads.size)
        _check(self._attend(qkv, cache, out, ctypes.addressof(heads), *scoring))

    def lora(self, x_NI: Tensor, out_NO: Tensor, num_tokens: int, groups: int, site: Site) -> None:
        """Add to `out_NO` what the groups, an array's address, make of `x_NI`; none has a token beyond `num_tokens`."""
        x, out = self._pointer(x_NI, num_tokens * site.inputs), self._pointer(out_NO, num_tokens * site.width)
        self._lora(x, out, groups, ctypes.addressof(site))

    def _qkv(self, qkv_NO: Tensor, heads: Heads) -> int:
        return self._pointer(qkv_NO, heads.tokens * (heads.query + 2 * heads.key) * heads.size)

    def _cache(self, kv_2RHCD: Tensor, heads: Heads) -> int:
        return self._pointer(kv_2RHCD, 2 * heads.cache_rows * heads.key * heads.capacity * heads.size)

    def _pointer(self, tensor: Tensor, at_least: int) -> int:
        return _pointer(tensor, self._dtype, at_least)


class Int8Row:
    """The product of one row of float32 with a weight in eight bits."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._function = library["int8_f32"]
        self._function.argtypes, self._function.restype = [_POINTER] * 3, None

    def __call__(self, x_1I: Tensor, weight: Quantized) -> Tensor:
        """[1, O]."""
        if x_1I.dtype != torch.float32 or not x_1I.is_contiguous() or x_1I.shape != (1, weight.inputs):
            raise ValueError(f"one contiguous row of {weight.inputs} float32 was promised")
        out_1O = torch.empty(1, weight.outputs)
        self._function(x_1I.data_ptr(), out_1O.data_ptr(), ctypes.addressof(weight))
        return out_1O


def int8_row() -> Int8Row | None:
    """The function, where it can be had."""
    library = load_rows()
    return None if library is None else Int8Row(library)


def rows_for(device: torch.device, dtype: torch.dtype) -> Rows | None:
    """The functions for this type, where they can be had."""
    if device.type != "cpu" or dtype not in _SUFFIXES or (library := load_rows()) is None:
        return None
    return Rows(library, dtype)


def _pointer(tensor: Tensor, dtype: torch.dtype, at_least: int) -> int:
    if tensor.dtype != dtype or not tensor.is_contiguous() or tensor.numel() < at_least:
        raise ValueError(f"a contiguous tensor of {at_least} {dtype} was promised")
    return tensor.data_ptr()


def _check(fits: bool) -> None:  # noqa: FBT001  # a C function's word
    if not fits:
        raise ValueError("a token's line lies outside the cache, or a head has no room")


def _function(library: ctypes.CDLL, name: str, dtype: torch.dtype, types: list[Any]) -> Callable[..., Any]:
    function = library[f"{name}_{_SUFFIXES[dtype]}"]
    function.restype, *function.argtypes = types
    return function
