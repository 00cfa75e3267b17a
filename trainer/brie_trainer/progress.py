"""Turns the trainer's callbacks into events: metrics at every step, validation and checkpoints at their times."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl.trainer.sft_trainer import SFTTrainer

from brie_trainer.evaluation import Evaluation
from brie_trainer.labels import Example

_SAVE_EVERY = 100
_OURS = "brie"

Emit = Callable[[dict[str, Any]], None]
Validate = Callable[[SFTTrainer, Sequence[Example]], Evaluation]


@dataclass(slots=True)
class _Pace:
    """How fast steps go, without the time that validation and checkpoints take."""

    steps: int = 0
    seconds: float = 0.0
    since: float = 0.0

    def begin(self) -> None:
        self.since = time.monotonic()

    def end(self) -> None:
        self.seconds += time.monotonic() - self.since
        self.steps += 1


class Progress(TrainerCallback):
    """Listens to one run."""

    def __init__(self, emit: Emit, validation: Sequence[Example], validate: Validate, *, num_tokens: int) -> None:
        self._emit = emit
        self._validation = validation
        self._validate = validate
        self._tokens_per_epoch = num_tokens
        self._pace = _Pace()
        self._trainer: SFTTrainer | None = None
        self.last_evaluation: Evaluation | None = None

    def attach(self, trainer: SFTTrainer) -> None:
        """The trainer exists only after its callbacks do."""
        self._trainer = trainer

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Measure the untouched base first: B is zero, so what answers is the base."""
        if state.global_step:
            self._emit({"type": "message", "message": f"Resumed from step {state.global_step}"})
        else:
            self._run_validation(state)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Time the step."""
        self._pace.begin()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The step is over; in long epochs save now and then, so that a kill never costs more than that."""
        self._pace.end()
        steps_per_epoch = max(round(state.max_steps / max(state.num_train_epochs, 1)), 1)
        if state.global_step % _SAVE_EVERY == 0 and state.global_step % steps_per_epoch:
            control.should_save = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """One metrics event per step."""
        if not logs or "loss" not in logs:
            return
        metrics = {
            "step": state.global_step,
            "total_steps": state.max_steps,
            "train_loss": float(logs["loss"]),
            "train_mean_token_accuracy": float(logs.get("mean_token_accuracy", 0.0)),
            "learning_rate": float(logs["learning_rate"]),
            "epoch": round(float(state.epoch or 0.0), 3),
        }
        self._report(state, metrics | self._speed(state))

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Validate, and see to it that every epoch ends in a checkpoint."""
        self._run_validation(state)
        control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A checkpoint is on disk."""
        history = history_of(state)
        here = [record for record in history if record["step"] == state.global_step]
        metrics = {name: value for record in here for name, value in record.items()}
        told = {"step": state.global_step, "metrics": metrics | {"step": state.global_step}, "history": history}
        self._emit({"type": "checkpoint", **told})

    def _run_validation(self, state: TrainerState) -> None:
        if self._trainer is None or not self._validation:
            return
        self.last_evaluation = found = self._validate(self._trainer, self._validation)
        self._report(
            state,
            {
                "step": state.global_step,
                "total_steps": state.max_steps,
                "valid_loss": found.loss,
                "valid_mean_token_accuracy": found.accuracy,
                "full_valid_loss": found.loss,
                "full_valid_mean_token_accuracy": found.accuracy,
            },
        )

    def _speed(self, state: TrainerState) -> dict[str, float]:
        seconds = self._pace.seconds / max(self._pace.steps, 1)
        steps_per_epoch = max(state.max_steps / max(state.num_train_epochs, 1), 1)
        return {
            "tokens_per_second": round(self._tokens_per_epoch / steps_per_epoch / max(seconds, 1e-9), 1),
            "eta_seconds": round(seconds * (state.max_steps - state.global_step), 1),
        }

    def _report(self, state: TrainerState, metrics: dict[str, Any]) -> None:
        """Tell, and keep with the trainer's own state, which a checkpoint carries into the next attempt."""
        state.log_history.append({_OURS: metrics})  # type: ignore[dict-item]  # the Trainer only stores what is in it
        self._emit({"type": "metrics", "data": metrics})


def history_of(state: TrainerState) -> list[dict[str, Any]]:
    """Every step's metrics from the run's beginning, also over several attempts."""
    return [dict(entry[_OURS]) for entry in state.log_history if _OURS in entry]  # type: ignore[call-overload]
