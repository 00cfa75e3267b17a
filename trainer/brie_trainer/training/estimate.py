"""What a run will be, told before its first step: tokens, steps, memory, time, disk. Pure."""

from dataclasses import asdict, dataclass
from typing import Any

from brie_trainer.data.examples import TokenCounts
from brie_trainer.training.plan import Plan
from brie_trainer.training.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Measured on this device with this model."""

    training: float
    """Seconds per token of a step."""
    validating: float
    """Seconds per token of a validation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The whole run; what is measured meanwhile refines only the time."""

    examples: int
    tokens_per_epoch: int
    trained_tokens_per_epoch: int
    truncated_share: float
    dropped_examples: int
    epochs: int
    steps: int
    evaluations: int
    tokens_per_micro_batch: int
    gradient_checkpointing: bool
    peak_memory_bytes: int
    free_memory_bytes: int
    disk_bytes: int
    training_seconds: float
    validation_seconds: float
    reference_seconds: float
    """What preferences need besides: the reference's answers before the first step, and drift at every step."""
    device: str
    dtype: str

    @property
    def seconds(self) -> float:
        """Until the end, from the first step."""
        return self.training_seconds + self.validation_seconds + self.reference_seconds

    def as_json(self) -> dict[str, Any]:
        """Ready for json.dumps."""
        return {**asdict(self), "seconds": round(self.seconds, 1)}

    def in_words(self) -> str:
        """One sentence."""
        minutes = self.seconds / 60
        return (
            f"{self.steps} steps over {self.tokens_per_epoch:,} tokens x {self.epochs} epoch(s), about "
            f"{minutes:.1f} minutes ({self.validation_seconds / 60:.1f} of them validation) and "
            f"{self.peak_memory_bytes / 2**30:.1f} of {self.free_memory_bytes / 2**30:.1f} GiB on {self.device} "
            f"in {self.dtype}"
        )


def estimate(  # noqa: PLR0913  # all that is known before the first step
    counts: TokenCounts,
    schedule: Schedule,
    plan: Plan,
    speed: Speed,
    *,
    validation_tokens: int,
    adapter_bytes: int,
    free: int,
    device: str,
    dtype: str,
    processes: int,
    needs_reference: bool = False,
    needs_drift: bool = False,
) -> Estimate:
    """`adapter_bytes` of one saved adapter: a checkpoint is three of them, and each that is served one more."""
    steps, evaluations = schedule.total_steps, schedule.num_evaluations if validation_tokens else 0
    saves = sum(schedule.saves_after(step) for step in range(1, steps + 1))
    reference = (counts.tokens + validation_tokens) * processes if needs_reference else 0  # each process, all of it
    drift = 2 * (counts.tokens * schedule.n_epochs + evaluations * validation_tokens) if needs_drift else 0
    return Estimate(
        examples=counts.examples,
        tokens_per_epoch=counts.tokens,
        trained_tokens_per_epoch=counts.trained,
        truncated_share=round(counts.truncated / max(counts.tokens + counts.truncated, 1), 6),
        dropped_examples=counts.dropped,
        epochs=schedule.n_epochs,
        steps=steps,
        evaluations=evaluations,
        tokens_per_micro_batch=plan.token_cap,
        gradient_checkpointing=plan.gradient_checkpointing,
        peak_memory_bytes=plan.peak_bytes,
        free_memory_bytes=free,
        disk_bytes=adapter_bytes * (3 * 3 + saves),
        training_seconds=round(counts.tokens * schedule.n_epochs * speed.training / processes, 1),
        validation_seconds=round(evaluations * validation_tokens * speed.validating / processes, 1),
        reference_seconds=round((reference + drift) * speed.validating / processes, 1),
        device=device,
        dtype=dtype,
    )
