"""Whatever callers and workers do to one job, in whatever order and at once: it never makes an illegal move."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from brie_core.errors import InvalidRequest, LeaseLost
from brie_core.settings import Settings
from brie_core.store.job_store import Change, JobStore
from brie_core.store.jobs import MOVES, Job, JobKind, JobStatus, Lease, NewEvent, is_final
from brie_core.store.schema import open_database
from clocks import Clock

KIND = JobKind.FINE_TUNE
CLAIMED = (JobStatus.VALIDATING_FILES, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSING)
TTL = 10.0
SETTINGS = settings(
    max_examples=40, stateful_step_count=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
ACTIONS = ("pause", "resume", "cancel", "claim", "renew", "release", "running", "paused", "succeeded", "queued")


class Life(RuleBasedStateMachine):
    """One job, its callers, and two workers that take it from each other."""

    def __init__(self, store: JobStore, clock: Clock, runner: asyncio.Runner) -> None:
        super().__init__()
        self.store, self.clock, self.runner = store, clock, runner
        first = [NewEvent(message="Created")]
        self.job: Job = self._do(store.create(KIND, {}, JobStatus.VALIDATING_FILES, first))
        self.leases: list[Lease] = []

    def teardown(self) -> None:
        """Leave no job that the next life could claim."""
        if not is_final(self.job.status):
            self._do(self.store.cancel(self.job.id, KIND))

    @rule(action=st.sampled_from(ACTIONS), which=st.integers(0, 3))
    def one_thing_happens(self, action: str, which: int) -> None:
        before = self.job
        outcome = self._do(self._tried(action, which))
        self.job = self._do(self.store.get(before.id))
        if isinstance(outcome, Exception):
            assert self.job == before
        else:
            assert self.job.status in MOVES[before.status] | {before.status}
        if action not in {"resume", "cancel"} and before.status is JobStatus.PAUSED:
            assert self.job.status is JobStatus.PAUSED

    @rule(actions=st.lists(st.sampled_from(ACTIONS), min_size=2, max_size=4), which=st.integers(0, 3))
    def many_things_happen_at_once(self, actions: list[str], which: int) -> None:
        before = self.job.status

        async def race() -> None:
            await asyncio.gather(*(self._tried(action, which) for action in actions))

        self._do(race())
        self.job = self._do(self.store.get(self.job.id))
        assert self.job.status in _reachable(before)

    @rule(seconds=st.sampled_from((1.0, TTL + 1)))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def at_most_the_newest_lease_holds(self) -> None:
        for lease in self.leases[:-1]:
            assert isinstance(self._do(_outcome(self.store.renew(lease, TTL))), LeaseLost)

    @invariant()
    def events_have_no_gap_and_an_end_has_its_time(self) -> None:
        events = self._do(self.store.events_since(self.job.id, 0, limit=1000))
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        assert (self.job.finished_at is not None) == is_final(self.job.status)

    @invariant()
    def nobody_holds_a_job_that_rests(self) -> None:
        if self.leases and self.job.status in {JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED}:
            ghost = Change(events=[NewEvent(message="ghost")])
            assert isinstance(self._do(_outcome(self.store.write(self.leases[-1], ghost))), LeaseLost)

    async def _tried(self, action: str, which: int) -> Any:
        """What came of an action: a refusal is an outcome, too."""
        call: Callable[..., Awaitable[Any]]
        if action in {"pause", "resume", "cancel"}:
            call = getattr(self.store, action)
            return await _outcome(call(self.job.id, KIND))
        if action == "claim":
            return await self._claim(f"worker-{which % 2}")
        if not self.leases:
            return None
        lease = self.leases[max(len(self.leases) - 1 - which, 0)]
        if action == "renew":
            return await _outcome(self.store.renew(lease, TTL))
        if action == "release":
            return await _outcome(self.store.release(lease))
        return await _outcome(self.store.write(lease, Change(status=JobStatus(action), events=[NewEvent(message="x")])))

    async def _claim(self, owner: str) -> None:
        claimed = await self.store.claim(owner, KIND, CLAIMED, TTL)
        if claimed is not None:
            lease, job = claimed
            assert job.id == self.job.id and job.status in CLAIMED
            self.leases = sorted([*self.leases, lease], key=lambda each: each.token)

    def _do(self, part: Awaitable[Any]) -> Any:
        async def awaited() -> Any:
            return await part

        return self.runner.run(awaited())


async def _outcome(part: Awaitable[Any]) -> Any:
    try:
        return await part
    except (InvalidRequest, LeaseLost, ValueError) as refused:
        return refused


def _reachable(status: JobStatus) -> set[JobStatus]:
    found, fresh = {status}, {status}
    while fresh:
        fresh = {target for source in fresh for target in MOVES[source]} - found
        found |= fresh
    return found


def test_no_order_of_things_makes_an_illegal_move(database_url: str, tmp_path: Path) -> None:
    clock = Clock()
    with asyncio.Runner() as runner:
        database = runner.run(open_database(Settings(home=tmp_path, database_url=database_url)))

        class OfThisDatabase(Life):
            def __init__(self) -> None:
                super().__init__(JobStore(database, clock), clock, runner)

        try:
            run_state_machine_as_test(OfThisDatabase, settings=SETTINGS)
        finally:
            runner.run(database.aclose())
