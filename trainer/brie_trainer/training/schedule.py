"""Which examples a step takes, at which learning rate, and what follows it. Pure.

Everything follows from a step's number: a run that goes on from step 40 needs to know nothing but "40".
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

_MOST_WARMUP_STEPS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The order of one run. Steps are counted from 1; a step never takes examples of two epochs."""

    num_examples: int
    batch_size: int
    """Examples per optimizer step; an epoch's last step takes what is left."""
    n_epochs: int
    seed: int
    learning_rate: float
    """At its peak, behind the warm-up; from there a cosine goes down to nothing."""
    eval_steps: int
    """A validation every so many steps, besides the one at the end of an epoch."""
    save_steps: int
    """A checkpoint every so many steps, besides those that follow from validations."""

    @property
    def steps_per_epoch(self) -> int:
        """The last one may be short."""
        return math.ceil(self.num_examples / self.batch_size)

    @property
    def total_steps(self) -> int:
        """Of all epochs."""
        return self.steps_per_epoch * self.n_epochs

    @property
    def warmup_steps(self) -> int:
        """A tenth, at most ten; the first step already learns."""
        return min(_MOST_WARMUP_STEPS, self.total_steps // 10)

    def examples_of(self, step: int) -> list[int]:
        """The numbers of the examples that `step` takes."""
        epoch, at = divmod(step - 1, self.steps_per_epoch)
        order = _order(self.num_examples, self.seed, epoch)
        return list(order[at * self.batch_size : (at + 1) * self.batch_size])

    def rate_of(self, step: int) -> float:
        """The learning rate of `step`."""
        if step <= self.warmup_steps:
            return self.learning_rate * step / (self.warmup_steps + 1)
        done = (step - 1 - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def epoch_after(self, step: int) -> float:
        """How many epochs `step` steps are."""
        return step / self.steps_per_epoch

    def ends_epoch(self, step: int) -> bool:
        """Whether `step` is its epoch's last."""
        return step % self.steps_per_epoch == 0

    def evaluates_after(self, step: int) -> bool:
        """Whether a validation follows `step`."""
        return self.ends_epoch(step) or step % self.eval_steps == 0

    def saves_after(self, step: int) -> bool:
        """Whether a checkpoint follows `step`, whatever its validation says."""
        return self.ends_epoch(step) or step % self.save_steps == 0

    @property
    def num_evaluations(self) -> int:
        """Of the whole run, with the one before the first step."""
        return 1 + sum(self.evaluates_after(step) for step in range(1, self.total_steps + 1))


@lru_cache(maxsize=2)
def _order(num_examples: int, seed: int, epoch: int) -> Sequence[int]:
    order = list(range(num_examples))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return order
