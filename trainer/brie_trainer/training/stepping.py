"""One optimizer step: micro-batches under a budget, gradients added up, memory running out survived. It tells nobody.

The gradient of a step is the same sum however it is cut: over micro-batches, over processes, before and after halving.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from brie_trainer.training.batches import collate, micro_batches
from brie_trainer.training.checkpoint import Progress
from brie_trainer.training.evaluation import length_of
from brie_trainer.training.job_rows import Item
from brie_trainer.training.memory_errors import OutOfMemory, give_back, within_memory
from brie_trainer.training.model import LoraModel
from brie_trainer.training.objective import Objective, Sums
from brie_trainer.training.processes import Processes

_MAX_GRADIENT_NORM = 1.0


class Stopped(Exception):
    """The run was asked to stop; whatever the step had added up is dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stepper:
    """Takes steps on one model."""

    model: LoraModel
    objective: Objective
    items: Sequence[Item]
    reference: Tensor | None
    """Of shape (items, sequences per item)."""
    drift: Callable[[Sequence[Item]], float]
    """Called with this process's items, for an objective that needs it."""
    optimizer: torch.optim.AdamW
    processes: Processes
    progress: Progress
    """Its budget is read, and written when memory ran out."""
    seed: int
    stopping: Callable[[], bool]
    halved: Callable[[str], None]
    """Told in words what became of the budget."""
    lengths: Sequence[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", [length_of(item) for item in self.items])

    def step(self, number: int, examples: Sequence[int], rate: float) -> tuple[Sums, float]:
        """Take step `number` over `examples`; returns its sums and its gradient's norm before clipping."""
        sums = self._gradient(number, examples)
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.model.parameters.values()), _MAX_GRADIENT_NORM))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return sums, norm

    def _gradient(self, number: int, examples: Sequence[int]) -> Sums:
        """Try until the step fits; raises Stopped, and OutOfMemory when nothing smaller is left to try."""
        while True:
            sums = self._added_up(number, examples)
            full, stopping = self._anywhere(sums is None), self._anywhere(self.stopping())
            if stopping or full:
                self.optimizer.zero_grad(set_to_none=True)
            if stopping:
                raise Stopped
            if sums is not None and not full:
                self._share_gradient()
                return Sums(self.processes.sum(sums.values))
            give_back(self.model.device)
            self._halve(examples)

    def _added_up(self, number: int, examples: Sequence[int]) -> Sums | None:
        """This process's part of the step; None if memory ran out. It ends early when asked to stop."""
        total = sum(self.objective.weight(self.items[example]) for example in examples)
        mine = self.processes.deal(examples, self.lengths)
        drift = self.drift([self.items[example] for example in mine]) if self.objective.needs_drift else 0.0
        sums = Sums.of()
        for group in micro_batches([self.lengths[example] for example in mine], self.progress.token_cap):
            if self.stopping():
                return sums
            chosen = [mine[at] for at in group]
            torch.manual_seed(hash((self.seed, number, chosen[0])))  # dropout's, the same in every attempt
            found = within_memory(lambda chosen=chosen: self._backward(chosen, total, drift))  # type: ignore[misc]
            if found is None:
                return None
            sums += found
        return sums

    def _backward(self, examples: Sequence[int], total: float, drift: float) -> Sums:
        items = [self.items[example] for example in examples]
        scores = self.model.score(collate([each for item in items for each in item.sequences]), training=True)
        reference = None if self.reference is None else self.reference[list(examples)].flatten().to(self.model.device)
        loss, sums = self.objective.loss(items, scores, reference, drift)
        (loss / total).backward()  # type: ignore[no-untyped-call]
        return sums

    def _share_gradient(self) -> None:
        if self.processes.count > 1:
            for parameter in self.model.parameters.values():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.processes.sum(gradient)

    def _anywhere(self, here: bool) -> bool:  # noqa: FBT001
        return bool(self.processes.sum(torch.tensor([float(here)])).item())

    def _halve(self, examples: Sequence[int]) -> None:
        """Micro-batches half as large; then activations computed twice; then there is nothing left."""
        lengths = [self.lengths[example] for example in examples]
        groups = micro_batches(lengths, self.progress.token_cap)
        before = max(sum(lengths[at] for at in group) for group in groups)
        if max(map(len, groups)) > 1:
            self.progress.token_cap = before // 2
            self.halved(f"Out of memory: micro-batches have at most {before // 2} tokens now, not {before}")
        elif not self.progress.gradient_checkpointing:
            self.progress.gradient_checkpointing = True
            self.model.checkpoint_activations()
            self.halved("Out of memory with one example at a time: activations are computed twice now instead of kept")
        else:
            longest = max(self.lengths[example] for example in examples)
            raise OutOfMemory(
                f"One example of {longest} tokens does not fit into memory: set brie.max_length below it, "
                "or train a smaller model."
            )
