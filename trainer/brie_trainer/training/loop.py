"""A run from its first step, or from a checkpoint, to its end: steps, validations, checkpoints, early stopping.

    loading -> [reference] -> validation of the base -> step -> (validation) -> (checkpoint) -> step ... -> outcome

It is given examples and numbers, reports through a callback, and leaves PEFT folders. It knows no job and no database.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from brie_core.errors import BrieError
from brie_trainer.training import checkpoint
from brie_trainer.training.checkpoint import Progress
from brie_trainer.training.evaluation import Scorer
from brie_trainer.training.job_rows import Item
from brie_trainer.training.model import LoraModel
from brie_trainer.training.objective import Objective, Sums, mismatched
from brie_trainer.training.processes import Processes
from brie_trainer.training.reporting import Reporter
from brie_trainer.training.schedule import Schedule
from brie_trainer.training.stepping import Stepper, Stopped

_HOPELESS = 1.5


class LossDiverged(BrieError):
    """The loss is no number any more, or far above what guessing would give."""

    default_code = "loss_diverged"


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyStopping:
    """When a run has learnt what it can."""

    patience: int
    """Validations in a row that may fail to improve."""
    min_delta: float
    """How much lower a loss must be to count as better."""
    warmup_evals: int
    """Validations at the beginning that count for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, all decided."""

    output: Path
    """Where checkpoints go: `output/checkpoints/checkpoint-<step>`."""
    attempts: Sequence[Path]
    """This and earlier attempts' folders, where a best checkpoint may lie."""
    training: Sequence[Item]
    validation: Sequence[Item]
    schedule: Schedule
    objective: Objective
    early_stopping: EarlyStopping | None
    resume_from: Path | None
    processes: Processes
    at_start: Callable[[], AbstractContextManager[None]]
    """The model as it was before the first step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    step: int
    """The step whose checkpoint is to be published."""
    last_step: int


class Loop:
    """Runs one `Run` on one model."""

    def __init__(
        self,
        run: Run,
        model: LoraModel,
        progress: Progress,
        reporter: Reporter,
        stopping: Callable[[], bool],
    ) -> None:
        self._run = run
        self._model = model
        self._progress = progress
        self._processes = run.processes
        self._reporter = reporter
        self._stopping = stopping
        self._optimizer = torch.optim.AdamW(list(model.parameters.values()), lr=0.0, weight_decay=0.0)
        self._scorer = Scorer(model, progress.evaluation_tokens, self._evaluation_halved, self._check_stop)
        self._reference: dict[str, Tensor] = {}

    def run(self) -> Outcome | None:
        """Run to the end; None if it was asked to stop, with a checkpoint of the last whole step on disk."""
        try:
            self._begin()
            return self._to_the_end()
        except Stopped:
            self._optimizer.zero_grad(set_to_none=True)
            if self._progress.step and not checkpoint.is_whole(self._folder(self._progress.step)):
                self._save()
            return None

    def _begin(self) -> None:
        if self._run.resume_from is not None:
            step = self._progress.step
            self._reference = checkpoint.restore(self._run.resume_from, self._model, self._optimizer, step)
            self._reporter.message(f"Resumed from step {step}")
        elif self._run.objective.needs_reference:
            self._reference = {"training": self._before(self._run.training)}
            if self._run.validation:
                self._reference["validation"] = self._before(self._run.validation)
        self._stepper = self._new_stepper()
        if not self._progress.step:
            self._validate(0)

    def _to_the_end(self) -> Outcome:
        schedule = self._run.schedule
        if self._is_out_of_patience():  # the last attempt ended between its last checkpoint and its last word
            return self._outcome()
        for step in range(self._progress.step + 1, schedule.total_steps + 1):
            self._reporter.step_begins()
            sums, norm = self._stepper.step(step, schedule.examples_of(step), schedule.rate_of(step))
            self._progress.step = step
            self._reporter.step_ended(step, sums, norm)
            self._check(step, sums)
            improved = schedule.evaluates_after(step) and self._validate(step)
            ended = step == schedule.total_steps or self._is_out_of_patience()
            if improved or ended or schedule.saves_after(step):
                self._save()
            if ended:
                break
        return self._outcome()

    def _outcome(self) -> Outcome:
        last, best = self._progress.step, self._progress.best_step
        chosen = best if self._run.early_stopping and best else last
        if checkpoint.at_step(self._run.attempts, chosen) is None:
            self._reporter.message(f"The checkpoint of step {chosen} is gone; the last one is used", level="warn")
            chosen = last
        elif chosen != last:
            self._reporter.message(f"The best validation was at step {chosen}: that checkpoint is the result")
        return Outcome(step=chosen, last_step=last)

    def _validate(self, step: int) -> bool:
        """Measure the validation rows; whether this is the best so far. The untouched base, step 0, is told only."""
        if not self._run.validation:
            return False
        with self._reporter.validating():
            sums, left_out = self._validation_sums()
        if left_out:
            self._reporter.message(f"{left_out} validation rows do not fit into memory and were left out", level="warn")
        loss = sums.mean("loss", "weight")
        if loss is None or not math.isfinite(loss):
            self._reporter.message(f"The validation at step {step} gave no loss", level="warn")
            return False
        self._reporter.validated(step, sums)
        return step > 0 and self._compare(step, loss)

    def _validation_sums(self) -> tuple[Sums, int]:
        items, objective, left_out = self._run.validation, self._run.objective, 0
        reference = self._reference.get("validation")
        mine = list(range(self._processes.rank, len(items), self._processes.count))
        drift = self._drift([items[number] for number in mine]) if objective.needs_drift else 0.0
        sums = Sums.of()
        for group, scores in self._scorer.passes([items[number] for number in mine]):
            numbers = [mine[at] for at in group]
            if scores is None:
                left_out += len(numbers)
                continue
            judged = None if reference is None else reference[numbers].flatten().to(self._model.device)
            with torch.no_grad():
                sums += objective.loss([items[number] for number in numbers], scores, judged, drift)[1]
        return Sums(self._processes.sum(sums.values)), left_out

    def _compare(self, step: int, loss: float) -> bool:
        progress, stopping = self._progress, self._run.early_stopping
        progress.evaluations += 1
        least = stopping.min_delta if stopping else 0.0
        if progress.best_loss is None or loss < progress.best_loss - least:
            progress.best_step, progress.best_loss, progress.stale_evaluations = step, loss, 0
            return True
        progress.stale_evaluations += stopping is None or progress.evaluations > stopping.warmup_evals
        return False

    def _is_out_of_patience(self) -> bool:
        stopping = self._run.early_stopping
        if stopping is None or self._progress.stale_evaluations < stopping.patience:
            return False
        self._reporter.message(f"No better validation in {stopping.patience}: stopping early")
        return True

    def _check(self, step: int, sums: Sums) -> None:
        """Older checkpoints stay."""
        loss = sums.mean("loss", "weight")
        guessing = None if self._run.objective.needs_reference else math.log(self._model.vocab_size)
        if has_diverged(loss, self._progress.history[0].get("valid_loss"), guessing):
            raise LossDiverged(
                f"The training loss was {loss} at step {step}: the learning rate is too high. "
                "Lower learning_rate_multiplier; checkpoints made before are kept.",
                param="hyperparameters.learning_rate_multiplier",
            )

    def _save(self) -> None:
        self._progress.evaluation_tokens = self._scorer.token_cap
        if self._processes.speaks:
            folder = self._folder(self._progress.step)
            with self._reporter.saving():
                checkpoint.save(folder, self._model, self._optimizer, self._reference, self._progress)
            self._reporter.saved()

    def _folder(self, step: int) -> Path:
        return self._run.output / "checkpoints" / f"checkpoint-{step}"

    def _before(self, items: Sequence[Item]) -> Tensor:
        with self._run.at_start():
            return self._scorer.answers(items)

    def _drift(self, items: Sequence[Item]) -> float:
        """How much likelier answers have become behind prompts they do not belong to; never below zero."""
        strangers = mismatched(items) if items else []
        moved = self._scorer.answers(strangers) - self._before(strangers) if strangers else torch.zeros(0, 1)
        sums = self._processes.sum(torch.tensor([float(moved.sum()), float(len(strangers))]))
        return max(float(sums[0] / sums[1]), 0.0)

    def _new_stepper(self) -> Stepper:
        return Stepper(
            model=self._model,
            objective=self._run.objective,
            items=self._run.training,
            reference=self._reference.get("training"),
            drift=self._drift,
            optimizer=self._optimizer,
            processes=self._processes,
            progress=self._progress,
            seed=self._run.schedule.seed,
            stopping=self._stopping,
            halved=lambda words: self._reporter.message(words, level="warn"),
        )

    def _evaluation_halved(self, tokens: int) -> None:
        self._reporter.message(f"Out of memory in an evaluation: {tokens} tokens at a time now", level="warn")

    def _check_stop(self) -> None:
        if self._stopping() and self._processes.count == 1:
            raise Stopped


def has_diverged(loss: float | None, at_first: float | None, guessing: float | None) -> bool:
    """Whether a loss is no number, or far above both its beginning and what guessing would give: it won't come back."""
    if loss is None or not math.isfinite(loss):
        return True
    return guessing is not None and loss > _HOPELESS * max(guessing, at_first or 0.0)


def trained_tokens(items: Sequence[Item], schedule: Schedule, steps: int) -> int:
    """Tokens that the loss counted over the first `steps` steps."""
    return sum(items[number].num_trained for step in range(1, steps + 1) for number in schedule.examples_of(step))
