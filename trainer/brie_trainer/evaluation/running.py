"""One attempt at an evaluation: what has no row yet is asked, and each answer becomes one. It knows no figure.

Held-out examples, then answers, then sweeps, then verdicts on the answers; a candidate at a time, so that its adapter
and the beginnings of its prompts stay where they are.
"""

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from brie_core.errors import BrieError, InvalidRequest
from brie_trainer.evaluation.asking import Asker, Read, Reply
from brie_trainer.evaluation.contract import Candidate, Job, Judge
from brie_trainer.evaluation.identities import Identities
from brie_trainer.evaluation.material import Material, examples_of
from brie_trainer.evaluation.plan import answer_key, compared, loss_key, planned, swept
from brie_trainer.evaluation.questions import (
    Question,
    answer_question,
    loss_question,
    read_answer,
    read_loss,
    sample_seed,
    verdict_question,
)
from brie_trainer.evaluation.rows import Key, Outcome, Row, RowLog
from brie_trainer.evaluation.verdicts import request_of, showing


class CandidateUnavailable(BrieError):
    """A candidate's server does not answer, however often it is asked."""

    default_code = "candidate_unavailable"


class JudgeUnavailable(BrieError):
    """A judge's server does not answer, however often it is asked."""

    default_code = "judge_unavailable"


@dataclass(frozen=True, slots=True)
class Task:
    """One row to be made."""

    key: Key
    question: Question | None
    """None where nothing needs to be asked: the row is `known`."""
    read: Read
    known: Mapping[str, Any] | None = None
    kept: Mapping[str, Any] | None = None
    """Goes into the row beside what is read."""


class Running:
    """An attempt under way."""

    def __init__(
        self, job: Job, material: Material, log: RowLog, stop: threading.Event, tell: Callable[[float, str], None]
    ) -> None:
        self._job = job
        self._material = material
        self._log = log
        self._stop = stop
        self._tell = tell
        self._planned = len(list(planned(job, material)))
        self._identities = Identities(job, log.rows.values())

    def run(self) -> None:
        """Ask all that has no answer yet.

        Raises Stopped, Conflict for a version that changes, CandidateUnavailable, and JudgeUnavailable once the other
        judges have been heard.
        """
        for candidate in self._job.candidates:
            self._run_candidate(candidate, self._losses(candidate), "the loss of held-out rows")
        for candidate in self._job.candidates:
            self._run_candidate(candidate, self._answers(candidate), "answers")
        for candidate in self._job.candidates:
            self._run_candidate(candidate, self._sweeps(candidate), "the sweep")
        judges = () if self._job.judging is None else self._job.judging.judges
        gone = [error for judge in judges if (error := self._run_judge(judge)) is not None]
        if gone:
            raise gone[0]

    def _run_candidate(self, candidate: Candidate, tasks: Sequence[Task], what: str) -> None:
        if not (left := self._left(tasks)):
            return
        self._tell(self._fraction(), f"{candidate.name}: {what}")
        asker = Asker(candidate, self._stop)
        try:
            if left[0].key.kind == "loss":
                self._check_tokens(candidate, asker)
            for row in self._asked(asker, left):
                if row.outcome == "failed":
                    raise CandidateUnavailable(
                        f"{candidate.name!r} did not answer ({row.reason}; {_times(row.tries)}): see to its server, "
                        "and resume the evaluation. It goes on where it was.",
                        param=candidate.name,
                    )
                self._keep(row)
        finally:
            asker.close()

    def _run_judge(self, judge: Judge) -> JudgeUnavailable | None:
        """A judge's refusals and failures are rows: that a judge is no good is a finding.

        One that only fails is asked no more; if that was for want of an answer, the evaluation is not at its end.
        """
        if not (left := self._left(self._verdicts(judge))):
            return None
        self._tell(self._fraction(), f"{judge.name} judges")
        asker, in_a_row = Asker(judge, self._stop), 0
        most = self._job.judging.give_up_after if self._job.judging else 1
        try:
            for row in self._asked(asker, left):
                self._keep(row)
                in_a_row = in_a_row + 1 if row.outcome != "answered" else 0
                if in_a_row >= most:
                    self._tell(
                        self._fraction(), f"{judge.name} failed {_times(in_a_row)} in a row and is asked no more"
                    )
                    return _gone(judge, row, in_a_row)
        finally:
            asker.close()
        return None

    def _check_tokens(self, candidate: Candidate, asker: Asker) -> None:
        """What is scored must be what the server would have the model read."""
        first = self._material.first_prompts.get(self._material.tokenizers[candidate.name])
        if first is None:
            return
        messages, expected = first
        found = asker.tokens_of([dict(message) for message in messages])
        if found is not None and found != list(expected):
            raise InvalidRequest(
                f"The server of {candidate.name!r} makes other tokens of a held-out row than the tokenizer that was "
                "given for it: tokenizer or chat template are not this model's.",
                param="tokenizer",
                code="tokenizer_mismatch",
            )

    def _left(self, tasks: Iterator[Task] | Sequence[Task]) -> list[Task]:
        """What has no row yet, or one that says that nothing came of it."""
        rows = self._log.rows
        return [task for task in tasks if task.key not in rows or rows[task.key].outcome == "failed"]

    def _fraction(self) -> float:
        return len(self._log.rows) / max(self._planned, 1)

    def _keep(self, row: Row) -> None:
        self._identities.check(row)
        self._log.add(row)
        if len(self._log.rows) % max(self._planned // 50, 1) == 0:
            self._tell(self._fraction(), f"{len(self._log.rows)} of {self._planned} asked")

    def _asked(self, asker: Asker, tasks: Sequence[Task]) -> Iterator[Row]:
        """Rows as they come, with at most `concurrency` questions under way."""
        waiting = iter(tasks)
        with ThreadPoolExecutor(self._job.concurrency) as pool:
            under_way: set[Future[Row]] = set()
            try:
                for task in itertools.islice(waiting, self._job.concurrency):
                    under_way.add(pool.submit(_row, asker, task))
                while under_way:
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield future.result()
                        for task in itertools.islice(waiting, 1):
                            under_way.add(pool.submit(_row, asker, task))
            finally:
                for future in under_way:
                    future.cancel()

    def _losses(self, candidate: Candidate) -> list[Task]:
        return [
            Task(
                loss_key(candidate, example.id),
                loss_question(example, candidate),
                partial(read_loss, example=example),
            )
            for example in examples_of(self._material, candidate)
        ]

    def _answers(self, candidate: Candidate) -> list[Task]:
        if (prompts := self._job.prompts) is None:
            return []
        return [
            Task(
                answer_key(candidate, prompt, sample),
                answer_question(prompt, candidate, prompts.sampling, sample_seed(self._job.seed, prompt.id, sample)),
                read_answer,
            )
            for prompt, sample in itertools.product(self._material.prompts, range(prompts.samples))
        ]

    def _sweeps(self, candidate: Candidate) -> list[Task]:
        return [
            Task(
                key,
                answer_question(prompt, candidate, sampling, sample_seed(self._job.seed, prompt.id, 0)),
                read_answer,
            )
            for key, whose, prompt, sampling in swept(self._job, self._material)
            if whose.name == candidate.name
        ]

    def _verdicts(self, judge: Judge) -> Iterator[Task]:
        """Of pairs that were both answered; where both are the same to the letter, there is nothing to ask."""
        for key, whose, prompt in compared(self._job, self._material):
            texts = {side: self._answer_text(name, key) for side, name in _sides(key)}
            if whose.name != judge.name or None in texts.values():
                continue
            shown = showing(self._job.seed, (key.candidate, key.against, key.item, str(key.sample)), key.order)
            if texts["candidate"] == texts["against"]:
                yield Task(key, None, _text_alone, known={"identical": True})
                continue
            messages = request_of(prompt.shown, cast("dict[str, str]", texts), shown)
            yield Task(key, verdict_question(messages, judge, self._job.seed), _text_alone, kept=shown.as_json())

    def _answer_text(self, name: str, key: Key) -> str | None:
        row = self._log.rows.get(Key(kind="answer", candidate=name, item=key.item, sample=key.sample))
        return row.data["text"] if row is not None and row.outcome == "answered" else None


def _gone(judge: Judge, row: Row, in_a_row: int) -> JudgeUnavailable | None:
    """None for a judge that does answer, and refuses."""
    if row.outcome != "failed":
        return None
    return JudgeUnavailable(
        f"The judge {judge.name!r} did not answer {_times(in_a_row)} in a row ({row.reason}): see to its server, and "
        "resume the evaluation. What was answered and judged so far is kept.",
        param=judge.name,
    )


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _sides(key: Key) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("candidate", key.candidate), ("against", key.against)


def _text_alone(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"text": read_answer(answer)["text"]}


def _row(asker: Asker, task: Task) -> Row:
    if task.question is None:
        return Row(key=task.key, outcome="answered", tries=0, data=task.known or {})
    reply: Reply = asker.ask(task.question, task.read)
    return Row(
        key=task.key,
        outcome=cast("Outcome", reply.outcome),
        tries=reply.tries,
        reason=reply.reason,
        by=reply.by,
        data={**(task.kept or {}), **reply.data},
    )
