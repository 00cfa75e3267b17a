"""What is told before the first step: every pass over the data that a method makes is in the time."""

from typing import Any

from brie_trainer.data.examples import TokenCounts
from brie_trainer.training.estimate import Estimate, Speed, estimate
from brie_trainer.training.plan import Plan
from brie_trainer.training.schedule import Schedule

PLAN = Plan(
    token_cap=1024, evaluation_tokens=1024, gradient_checkpointing=False,
    fixed_bytes=2**30, activation_bytes=2**29, logit_bytes=2**28,
)  # fmt: skip
SCHEDULE = Schedule(num_examples=100, batch_size=10, n_epochs=2, seed=1, learning_rate=1.0, eval_steps=5, save_steps=99)


def estimated(**needs: Any) -> Estimate:
    counts = TokenCounts(examples=100, tokens=10_000, trained=4_000)
    return estimate(
        counts, SCHEDULE, PLAN, Speed(training=0.03, validating=0.01), validation_tokens=1000, adapter_bytes=100,
        free=2**33, device="cpu", dtype="float32", **({"processes": 1} | needs),
    )  # fmt: skip


def test_supervised_runs_are_steps_and_validations() -> None:
    found = estimated()
    assert (found.steps, found.evaluations) == (20, 5)
    assert (found.training_seconds, found.validation_seconds, found.reference_seconds) == (600.0, 50.0, 0.0)
    assert found.seconds == 650.0 == found.as_json()["seconds"]


def test_preferences_are_answered_by_the_reference_before_the_first_step() -> None:
    found = estimated(needs_reference=True)
    assert found.reference_seconds == 110.0
    assert found.seconds == 760.0 and "12.7 minutes" in found.in_words()


def test_drift_is_two_more_passes_of_everything() -> None:
    assert estimated(needs_reference=True, needs_drift=True).reference_seconds == 110.0 + 2 * (200.0 + 50.0)


def test_processes_share_all_but_the_reference() -> None:
    found = estimated(needs_reference=True, needs_drift=True, processes=2)
    assert (found.training_seconds, found.reference_seconds) == (300.0, 110.0 + 200.0 + 50.0)
