"""What a model is computed on, and in which form. It knows no model."""

from dataclasses import dataclass

import torch

from brie_server.engine.torch.compiled.rows import Rows
from brie_server.engine.torch.replays import Record
from brie_server.engine.torch.shapes import EXACT, Shapes


@dataclass(frozen=True, slots=True)
class Target:
    """Decided once, when an engine is made; see `device.choose_target`."""

    device: torch.device
    dtype: torch.dtype
    """Of activations, and of weights if nothing else is said."""
    shapes: Shapes = EXACT
    rows: Rows | None = None
    """The compiled functions; None does everything in torch's own operations."""
    has_int8_weights: bool = False
    record: Record | None = None
    """Steps of single tokens are recorded by this and replayed; None computes them like all others."""
