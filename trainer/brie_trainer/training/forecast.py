"""What a run will take, found out on the device itself: a plan for its memory, and one micro-batch of each kind timed.

It touches neither the adapter nor the optimizer: what it measures with is thrown away.
"""

import math
import time
from collections.abc import Sequence

import torch

from brie_core.weights.base_model import BaseModel
from brie_trainer.data.examples import Example
from brie_trainer.training.batches import collate
from brie_trainer.training.estimate import Speed
from brie_trainer.training.evaluation import length_of
from brie_trainer.training.hyperparameters import Hyperparameters
from brie_trainer.training.job_rows import Item
from brie_trainer.training.model import LoraModel
from brie_trainer.training.plan import Shape

_WARM_UP_TOKENS = 32


def shape_of(base: BaseModel, chosen: Hyperparameters) -> Shape:
    """Counted in the checkpoint's headers; nothing is loaded."""
    targets = chosen.target_modules
    linears = {name: size for name, size in base.linear_modules.items() if not name.endswith("lm_head")}
    trained = sum(
        chosen.rank * (outputs + inputs)
        for name, (outputs, inputs) in linears.items()
        if targets is None or name.rpartition(".")[2] in targets
    )
    weights = sum(math.prod(tensor.shape) for tensor in base.tensors.values())
    return Shape.of(base.config, weights=weights, trained=trained)


def longest_of(items: Sequence[Item]) -> int:
    """Tokens of the longest item."""
    return max(map(length_of, items))


def measure(model: LoraModel, items: Sequence[Item]) -> Speed:
    """Time an item of middling length, there and back and there only, behind a short one that warms libraries up."""
    middle = sorted(items, key=length_of)[len(items) // 2].sequences
    _learn(model, [sequence.truncated(_WARM_UP_TOKENS) for sequence in middle])
    tokens = sum(len(sequence.input_ids) for sequence in middle)
    began = time.monotonic()
    _learn(model, middle)
    learnt = time.monotonic()
    with torch.no_grad():
        model.score(collate(middle), training=False)
    return Speed(training=(learnt - began) / tokens, validating=(time.monotonic() - learnt) / tokens)


def _learn(model: LoraModel, sequences: Sequence[Example]) -> None:
    scores = model.score(collate(sequences), training=True)
    scores.log_probs_N.sum().backward()  # type: ignore[no-untyped-call]
    for parameter in model.parameters.values():
        parameter.grad = None
