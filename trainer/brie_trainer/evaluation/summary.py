"""The report: a pure function of the job, what was asked, and the rows. It knows no file, no server and no clock."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import quantiles

import numpy as np

from brie_trainer.evaluation.contract import Candidate, Job
from brie_trainer.evaluation.figures import (
    ANSWERS,
    HELD_OUT,
    Item,
    answer_summands,
    counts_of,
    differences,
    figures_of,
    loss_summands,
)
from brie_trainer.evaluation.judging import WIN_RATE, Judged, agreements, judge_report, win_rate, win_rates
from brie_trainer.evaluation.material import Material, Prompt, examples_of
from brie_trainer.evaluation.measures import words_of
from brie_trainer.evaluation.plan import answer_key, compared, loss_key, swept
from brie_trainer.evaluation.report import (
    CandidateReport,
    Comparison,
    Counts,
    Difference,
    Figure,
    Identity,
    JudgingReport,
    Lengths,
    Report,
    Sample,
    SweepCell,
)
from brie_trainer.evaluation.report import Material as Asked
from brie_trainer.evaluation.rows import Key, Row
from brie_trainer.evaluation.statistics import Chance
from brie_trainer.evaluation.verdicts import Showing, parse
from brie_trainer.evaluation.wording import comparison_sentence, percent

_BINS = 20


class Summary:
    """Rows at hand, by key."""

    def __init__(self, job: Job, material: Material, rows: Iterable[Row]) -> None:
        self._job = job
        self._material = material
        self._rows: Mapping[Key, Row] = {row.key: row for row in rows}
        self._prompts = {prompt.id: prompt for prompt in material.prompts}
        self._chance = Chance(job.statistics.confidence, job.statistics.resamples, job.seed)
        self._answers = {each.name: self._answer_items(each) for each in job.candidates}
        self._losses = {each.name: self._loss_items(each) for each in job.candidates}
        self._judged = {pair: self._verdicts(*pair) for pair in job.pairs} if job.judging else {}

    def report(self) -> Report:
        """All that can be said."""
        job = self._job
        return Report(
            title=job.title or self._title(),
            seed=job.seed,
            confidence=job.statistics.confidence,
            against=job.against,
            job_sha256=hashlib.sha256(json.dumps(job.as_asked(), sort_keys=True).encode()).hexdigest(),
            material=self._asked(),
            candidates={each.name: self._candidate(each) for each in job.candidates},
            comparisons=[self._comparison(*pair) for pair in job.pairs],
            sweep=self._sweep(),
            samples=self._samples(),
        )

    def _title(self) -> str:
        names = [each.name for each in self._job.candidates if each.name != self._job.against]
        return ", ".join(names) + (f" against {self._job.against}" if self._job.against and names else "")

    def _asked(self) -> Asked:
        themes: dict[str, int] = {}
        for prompt in self._material.prompts:
            themes[prompt.theme] = themes.get(prompt.theme, 0) + 1
        return Asked(
            held_out_sha256=self._material.held_out_sha256,
            held_out_rows=self._material.held_out_rows,
            held_out_skipped=self._material.held_out_skipped,
            prompts_sha256=self._material.prompts_sha256,
            prompts=len(self._material.prompts),
            themes=themes,
        )

    def _candidate(self, candidate: Candidate) -> CandidateReport:
        name, job = candidate.name, self._job
        answers, losses = self._answers[name], self._losses[name]
        figures: dict[str, Figure] = {}
        if job.held_out is not None:
            figures |= figures_of(losses, HELD_OUT, self._chance, name)
        if job.prompts is not None:
            figures |= figures_of(answers, ANSWERS, self._chance, name)
        judged = self._judged.get((name, job.against or ""))
        if judged is not None:
            figures["win_rate"] = win_rate(judged, "overall", self._chance.of(f"{name} win_rate"))
        return CandidateReport(
            identity=self._identity(candidate),
            figures=figures,
            themes=self._themes(name, judged),
            lengths=self._lengths(answers) if answers else None,
            held_out=self._counts_of_losses(candidate),
            answers=self._counts_of_answers(candidate),
        )

    def _counts_of_losses(self, candidate: Candidate) -> Counts | None:
        if self._job.held_out is None:
            return None
        examples = examples_of(self._material, candidate)
        return counts_of((loss_key(candidate, example.id) for example in examples), self._rows)

    def _counts_of_answers(self, candidate: Candidate) -> Counts | None:
        if self._job.prompts is None:
            return None
        return counts_of(self._answer_keys(candidate), self._rows)

    def _answer_keys(self, candidate: Candidate) -> Iterable[Key]:
        samples = range(self._job.prompts.samples if self._job.prompts else 0)
        return (answer_key(candidate, prompt, sample) for prompt in self._material.prompts for sample in samples)

    def _answer_items(self, candidate: Candidate) -> list[Item]:
        return [
            _answer_item(row, self._prompts[row.key.item])
            for key in self._answer_keys(candidate)
            if (row := self._rows.get(key)) is not None and row.outcome == "answered"
        ]

    def _loss_items(self, candidate: Candidate) -> list[Item]:
        found = []
        for example in examples_of(self._material, candidate):
            row = self._rows.get(loss_key(candidate, example.id))
            if row is not None and row.outcome == "answered":
                found.append(Item((example.id, 0), example.cluster, "", loss_summands(row.data)))
        return found

    def _identity(self, candidate: Candidate) -> Identity:
        rows = (row for row in self._rows.values() if row.key.kind != "verdict")
        named = _identity(candidate.model, (row for row in rows if row.key.candidate == candidate.name))
        return named.model_copy(update={"tokenizer": self._material.tokenizers.get(candidate.name)})

    def _themes(self, name: str, judged: Sequence[Judged] | None) -> dict[str, dict[str, Figure]]:
        if self._job.prompts is None:
            return {}
        told = {}
        for theme in dict.fromkeys(prompt.theme for prompt in self._material.prompts):
            items = [item for item in self._answers[name] if item.theme == theme]
            told[theme] = figures_of(items, ANSWERS, self._chance, f"{name} {theme}")
            if judged is not None:
                here = [each for each in judged if self._prompts[each.item].theme == theme]
                told[theme]["win_rate"] = win_rate(here, "overall", self._chance.of(f"{name} {theme} win_rate"))
        return told

    def _lengths(self, items: Sequence[Item]) -> Lengths:
        longest = max(max(_words(each), default=0) for each in self._answers.values())
        edges = np.linspace(0, max(longest, 1), _BINS + 1)
        words = sorted(_words(items))
        lower, middle, upper = quantiles(words, n=4, method="inclusive") if len(words) > 1 else words * 3
        counted, _ = np.histogram(words, edges)
        return Lengths(
            mean=sum(words) / len(words),
            minimum=words[0],
            quartiles=(lower, middle, upper),
            maximum=words[-1],
            edges=[float(edge) for edge in edges],
            histogram=[int(count) for count in counted],
        )

    def _comparison(self, candidate: str, against: str) -> Comparison:
        kinds = HELD_OUT if self._same_tokens(candidate, against) else {"bits_per_byte": HELD_OUT["bits_per_byte"]}
        figures: dict[str, Difference] = {}
        if self._job.held_out is not None:
            sides = self._losses[candidate], self._losses[against]
            figures |= differences(*sides, kinds, self._chance, against)
        if self._job.prompts is not None:
            figures |= differences(self._answers[candidate], self._answers[against], ANSWERS, self._chance, against)
        judging = self._judging(candidate, against)
        same = {"loss", "bits_per_byte"} if "perplexity" in figures else set[str]()  # what perplexity says already
        told = [(each, {**HELD_OUT, **ANSWERS}[name].better) for name, each in figures.items() if name not in same]
        told += [] if judging is None else [(judging.win_rate, WIN_RATE.better)]
        return Comparison(
            candidate=candidate,
            against=against,
            figures=figures,
            judging=judging,
            sentence=comparison_sentence(candidate, against, told, percent(self._chance.confidence)),
        )

    def _same_tokens(self, candidate: str, against: str) -> bool:
        tokenizers = self._material.tokenizers
        return tokenizers.get(candidate) == tokenizers.get(against)

    def _judging(self, candidate: str, against: str) -> JudgingReport | None:
        judged = self._judged.get((candidate, against))
        if judged is None or self._job.judging is None:
            return None
        overall, criteria = win_rates(judged, self._chance, against)
        keys = [
            key
            for key, _, _ in compared(self._job, self._material)
            if (key.candidate, key.against) == (candidate, against)
        ]
        judges = {}
        for judge in self._job.judging.judges:
            own = [key for key in keys if key.judge == judge.name]
            rows = (self._rows[key] for key in own if key in self._rows)
            said = [each for each in judged if each.judge == judge.name]
            judges[judge.name] = judge_report(
                said, judge.name, _identity(judge.model, rows), counts_of(own, self._rows), self._chance
            )
        return JudgingReport(win_rate=overall, criteria=criteria, judges=judges, agreements=agreements(judged))

    def _verdicts(self, candidate: str, against: str) -> list[Judged]:
        found = []
        for key, _, prompt in compared(self._job, self._material):
            row = self._rows.get(key)
            if row is None or row.outcome != "answered" or (key.candidate, key.against) != (candidate, against):
                continue
            found.append(_judged(row, prompt, self._longer(key)))
        return found

    def _longer(self, key: Key) -> bool | None:
        ours, theirs = (
            len(words_of(self._rows[Key(kind="answer", candidate=name, item=key.item, sample=key.sample)].data["text"]))
            for name in (key.candidate, key.against)
        )
        return None if ours == theirs else ours > theirs

    def _sweep(self) -> list[SweepCell]:
        cells: dict[tuple[str, str], list[Key]] = {}
        for key, _, _, _ in swept(self._job, self._material):
            cells.setdefault((key.candidate, key.cell), []).append(key)
        made = []
        for (candidate, cell), keys in cells.items():
            rows = [self._rows[key] for key in keys if key in self._rows and self._rows[key].outcome == "answered"]
            items = [_answer_item(row, self._prompts[row.key.item]) for row in rows]
            figures = figures_of(items, ANSWERS, self._chance, f"{candidate} {cell}")
            counts = counts_of(keys, self._rows)
            made.append(SweepCell(candidate=candidate, settings=json.loads(cell), figures=figures, counts=counts))
        return made

    def _samples(self) -> list[Sample]:
        return [
            Sample(
                item=prompt.id,
                theme=prompt.theme,
                prompt=prompt.shown,
                reference=prompt.reference,
                answers={
                    candidate.name: row.data["text"]
                    for candidate in self._job.candidates
                    if (row := self._rows.get(answer_key(candidate, prompt, 0))) is not None
                    and row.outcome == "answered"
                },
            )
            for prompt in self._material.prompts
        ]


def _identity(model: str, rows: Iterable[Row]) -> Identity:
    known = [row.by for row in rows if row.by is not None]
    return Identity(
        model=model,
        served_as=sorted({by.model for by in known if by.model is not None}),
        version=next((by.version for by in known if by.version is not None), None),
        fingerprints=sorted({by.fingerprint for by in known if by.fingerprint is not None}),
    )


def _answer_item(row: Row, prompt: Prompt) -> Item:
    summands = answer_summands(row.data["text"], row.data["finish"], prompt.reference)
    return Item((prompt.id, row.key.sample), prompt.cluster, prompt.theme, summands)


def _judged(row: Row, prompt: Prompt, longer: bool | None) -> Judged:  # noqa: FBT001  three states, not a switch
    identical = row.data.get("identical", False)
    return Judged(
        judge=row.key.judge,
        cluster=prompt.cluster,
        item=row.key.item,
        sample=row.key.sample,
        order=row.key.order,
        longer=longer,
        shown=None if identical else Showing.of(row.data),
        verdict=None if identical else parse(row.data["text"]),
    )


def _words(items: Sequence[Item]) -> list[int]:
    return [int(summands[0]) for item in items if (summands := item.summands["words"]) is not None]


def build_report(job: Job, material: Material, rows: Iterable[Row]) -> Report:
    """The same rows give the same report."""
    return Summary(job, material, rows).report()


def as_bytes(report: Report) -> bytes:
    """report.json."""
    return json.dumps(report.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False).encode() + b"\n"
