"""Which rows an evaluation has: every question by its key, in the order in which it is asked. Pure; it asks nobody."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

from brie_trainer.evaluation.contract import Candidate, Job, Judge, Sampling
from brie_trainer.evaluation.material import Material, Prompt, examples_of, limited
from brie_trainer.evaluation.rows import Key


def planned(job: Job, material: Material) -> Iterator[Key]:
    """Every row that there will be, if nothing fails; a pure function of what is asked."""
    for candidate in job.candidates:
        yield from (loss_key(candidate, example.id) for example in examples_of(material, candidate))
    if job.prompts is None:
        return
    for candidate, prompt in itertools.product(job.candidates, material.prompts):
        yield from (answer_key(candidate, prompt, sample) for sample in range(job.prompts.samples))
    yield from (key for key, _, _, _ in swept(job, material))
    yield from (key for key, _, _ in compared(job, material))


def loss_key(candidate: Candidate, example: str) -> Key:
    """Of a held-out example."""
    return Key(kind="loss", candidate=candidate.name, item=example)


def answer_key(candidate: Candidate, prompt: Prompt, sample: int) -> Key:
    """Of an answer."""
    return Key(kind="answer", candidate=candidate.name, item=prompt.id, sample=sample)


def swept(job: Job, material: Material) -> Iterator[tuple[Key, Candidate, Prompt, Sampling]]:
    """Every answer of the grid."""
    if job.sweep is None or job.prompts is None:
        return
    names = job.sweep.candidates or [each.name for each in job.candidates]
    prompts = limited(material.prompts, job.sweep.limit)
    for name, settings in itertools.product(names, grid(job)):
        sampling = job.prompts.sampling.model_copy(update=settings)
        for prompt in prompts:
            key = Key(kind="sweep", candidate=name, item=prompt.id, cell=json.dumps(settings, sort_keys=True))
            yield key, job.candidate(name), prompt, sampling


def grid(job: Job) -> list[dict[str, Any]]:
    """Every combination of the values that are given."""
    if job.sweep is None:
        return []
    given = job.sweep.model_dump(include={"temperature", "top_p", "repetition_penalty", "system_prompt"})
    named = [[(name, value) for value in dict.fromkeys(values)] for name, values in given.items() if values]
    return [dict(settings) for settings in itertools.product(*named)]


def compared(job: Job, material: Material) -> Iterator[tuple[Key, Judge, Prompt]]:
    """Every verdict: both orders of a pair after one another."""
    if job.judging is None or job.prompts is None:
        return
    prompts = limited(material.prompts, job.judging.limit)
    samples = range(min(job.judging.samples, job.prompts.samples))
    for (candidate, against), judge in itertools.product(job.pairs, job.judging.judges):
        for prompt, sample, order in itertools.product(prompts, samples, (0, 1)):
            key = Key(
                kind="verdict",
                candidate=candidate,
                against=against,
                judge=judge.name,
                item=prompt.id,
                sample=sample,
                order=order,
            )
            yield key, judge, prompt
