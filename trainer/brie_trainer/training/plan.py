"""How a run fits into memory: tokens at a time, and whether activations are kept. Pure arithmetic on a model's shape.

What training holds: the frozen weights; each trained number four times (itself, its gradient, two moments); what every
layer keeps of every token for the way back; and one chunk of logits. Only the third grows with the micro-batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brie_core.errors import BrieError

_BYTES = {"float32": 4, "bfloat16": 2}
_TOKENS_AT_ONCE = {"cpu": 1024, "mps": 2048, "cuda": 16384}
"""More make no step faster."""
_LOGITS = 2**24
_LOGIT_COPIES = 3
_SHARE = 0.85
"""Of the free memory that is planned with; allocators and the rest of the machine have theirs."""
_WORKSPACE = 700 * 2**20
"""Libraries, their buffers, and what an allocator keeps; measured beside SmolLM2 (docs/log.md, 2026-11-25)."""


class DoesNotFit(BrieError):
    """Not even one example fits, with activations computed twice."""

    default_code = "out_of_memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What of a model decides its memory."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    weights: int
    """Parameters of the base."""
    trained: int
    """Parameters of the adapter."""

    @classmethod
    def of(cls, config: Mapping[str, Any], *, weights: int, trained: int) -> "Shape":
        """From a model's config.json."""
        heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
        return cls(
            hidden=hidden,
            intermediate=int(config["intermediate_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or hidden // heads),
            vocabulary=int(config["vocab_size"]),
            weights=weights,
            trained=trained,
        )

    @property
    def kept_per_layer(self) -> int:
        """Numbers that a layer keeps of a token: both norms' inputs and outputs, attention's, the gated product's."""
        attention = 4 * self.heads * self.head_dim + 3 * self.kv_heads * self.head_dim
        return 4 * self.hidden + attention + 3 * self.intermediate


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was decided, and the peak it is expected to have."""

    token_cap: int
    evaluation_tokens: int
    gradient_checkpointing: bool
    fixed_bytes: int
    """Weights, adapter, optimizer, libraries."""
    activation_bytes: int
    logit_bytes: int

    @property
    def peak_bytes(self) -> int:
        """All of it."""
        return self.fixed_bytes + self.activation_bytes + self.logit_bytes


def plan(  # noqa: PLR0913  # a model, its data and the room there is
    shape: Shape, *, longest: int, dtype: str, device: str, free: int, checkpointing: bool | None
) -> Plan:
    """`longest`: tokens of the longest item, which is never divided; `free`: bytes. Raises DoesNotFit.

    `checkpointing` None leaves it to the memory: it costs a third of the speed, and is taken only where it must be.
    """
    width = _BYTES[dtype]
    fixed = shape.weights * width + shape.trained * 16 + _WORKSPACE
    logits = _LOGITS * 4 * _LOGIT_COPIES
    room = int(free * _SHARE) - fixed - logits
    wanted = max(_TOKENS_AT_ONCE[device], longest)
    for twice in (False, True) if checkpointing is None else (checkpointing,):
        per_token = _bytes_per_token(shape, width, twice=twice)
        tokens = min(wanted, room // per_token)
        if tokens >= longest:
            return _planned(tokens, per_token, fixed, logits, twice=twice)
    per_token = _bytes_per_token(shape, width, twice=True)
    needed = fixed + logits + longest * per_token
    if needed <= free:  # it will be close, and is worth the attempt
        return _planned(longest, per_token, fixed, logits, twice=True)
    raise DoesNotFit(
        f"An example of {longest} tokens needs {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB "
        "are free: set brie.max_length lower, train a smaller model, hold this one in fewer bits (brie.quantization, "
        "on an NVIDIA GPU), or close what else uses the memory.",
        param="brie.max_length",
    )


def _planned(tokens: int, per_token: int, fixed: int, logits: int, *, twice: bool) -> Plan:
    return Plan(
        token_cap=tokens,
        evaluation_tokens=tokens,
        gradient_checkpointing=twice,
        fixed_bytes=fixed,
        activation_bytes=tokens * per_token,
        logit_bytes=logits,
    )


def _bytes_per_token(shape: Shape, width: int, *, twice: bool) -> int:
    """Of a micro-batch; its logits' gradient with regard to the hidden state is float32."""
    head = shape.hidden * 8
    if twice:
        return shape.layers * shape.hidden * width + shape.kept_per_layer * width + head
    return shape.layers * shape.kept_per_layer * width + head
