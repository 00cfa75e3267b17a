"""What a run says of itself: metrics at every step and validation, checkpoints, messages. It knows no tensor."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from brie_trainer.training.checkpoint import Progress
from brie_trainer.training.objective import Sums
from brie_trainer.training.schedule import Schedule
from brie_trainer.training.wakefulness import Wakefulness

Emit = Callable[[dict[str, Any]], None]
Ahead = tuple[int, int, int]


@dataclass(slots=True, kw_only=True)
class Reporter:
    """Tells one run's story to `emit`, and keeps the metrics in the run's history."""

    emit: Emit
    progress: Progress
    schedule: Schedule
    tokens_of: Callable[[int], int]
    """How many tokens a step is, padding not counted."""
    seconds: float = 0.0
    """Of all steps of this attempt; a machine that sleeps does not count them."""
    tokens: int = 0
    ahead: Sequence[Ahead] = field(init=False)
    """By step: tokens of the steps behind it, and validations and checkpoints from it on."""
    last: dict[str, float] = field(default_factory=lambda: {"validating": 0.0, "saving": 0.0})
    track: Callable[[int, Mapping[str, Any]], None] = lambda _step, _metrics: None
    """Told the same metrics as `emit`."""
    watch: Wakefulness = field(default_factory=Wakefulness)

    def __post_init__(self) -> None:
        self.ahead = _ahead(self.schedule, self.tokens_of)

    def message(self, text: str, *, level: str = "info") -> None:
        """Words for whoever follows the job."""
        self.emit({"type": "message", "level": level, "message": text})

    def step_begins(self) -> None:
        """From here on a step's time counts."""
        self.watch.begin()

    def step_ended(self, step: int, sums: Sums, norm: float) -> None:
        """One metrics event per step."""
        tokens = self.tokens_of(step)
        seconds, noticed = self.watch.end(tokens)
        self.seconds += seconds
        if noticed:
            self.message(f"Step {step}: {noticed}", level="warn")
        self.tokens += tokens
        metrics = {
            "train_loss": sums.mean("loss", "weight"),
            "train_mean_token_accuracy": sums.mean("hits", "tokens"),
            "train_reward_margin": sums.mean("margin", "pairs"),
            "train_reward_accuracy": sums.mean("wins", "pairs"),
            "learning_rate": self.schedule.rate_of(step),
            "grad_norm": norm,
            "epoch": round(self.schedule.epoch_after(step), 3),
            "tokens_per_second": round(self.tokens / max(self.seconds, 1e-9), 1),
            "eta_seconds": self._seconds_left(step),
        }
        self._report(step, metrics)

    def validated(self, step: int, sums: Sums) -> None:
        """One metrics event per validation; all of the validation rows are always measured."""
        loss, accuracy = sums.mean("loss", "weight"), sums.mean("hits", "tokens")
        metrics = {
            "valid_loss": loss,
            "valid_mean_token_accuracy": accuracy,
            "full_valid_loss": loss,
            "full_valid_mean_token_accuracy": accuracy,
            "valid_reward_margin": sums.mean("margin", "pairs"),
            "valid_reward_accuracy": sums.mean("wins", "pairs"),
        }
        self._report(step, metrics)

    def saved(self) -> None:
        """A checkpoint is on disk."""
        step = self.progress.step
        told = {"step": step, "metrics": self.metrics_at(step), "best": self.progress.best_step == step}
        self.emit({"type": "checkpoint", **told, "history": list(self.progress.history)})

    def metrics_at(self, step: int) -> dict[str, Any]:
        """All that is known of a step."""
        return {
            name: value for record in self.progress.history if record["step"] == step for name, value in record.items()
        }

    @contextmanager
    def validating(self) -> Iterator[None]:
        """Time that is no step's."""
        with self._timed("validating"):
            yield

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Time that is no step's."""
        with self._timed("saving"):
            yield

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.last[what] = time.monotonic() - began

    def _seconds_left(self, step: int) -> float:
        """Tokens at the pace so far, validations and checkpoints at what the last ones took."""
        tokens, validations, saves = self.ahead[step]
        pace = self.seconds / max(self.tokens, 1)
        left = pace * tokens + self.last["validating"] * validations + self.last["saving"] * saves
        return round(left, 1)

    def _report(self, step: int, metrics: Mapping[str, Any]) -> None:
        told = {name: value for name, value in metrics.items() if value is not None}
        record = {"step": step, "total_steps": self.schedule.total_steps, **told}
        self.progress.history.append(record)
        self.emit({"type": "metrics", "data": record})
        self.track(step, record)


def _ahead(schedule: Schedule, tokens_of: Callable[[int], int]) -> list[Ahead]:
    """Counted once, from the end."""
    found: list[Ahead] = [(0, 0, 0)]
    for step in range(schedule.total_steps, 0, -1):
        tokens, validations, saves = found[-1]
        validations, saves = validations + schedule.evaluates_after(step), saves + schedule.saves_after(step)
        found[-1] = (tokens, validations, saves)
        found.append((tokens + tokens_of(step), validations, saves))
    return found[::-1]
