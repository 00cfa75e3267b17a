"""What an evaluation is asked to do: job.json, checked. It knows no file and no server.

`python -m brie_trainer.evaluation FOLDER` reads FOLDER/job.json, which is a `Job`:

    {"output": "/home/me/.brie/evaluations/eval-1",
     "candidates": [
        {"name": "philosophy", "base_url": "http://127.0.0.1:8000/v1", "model": "philosophy",
         "version": "sha256 of the adapter version", "tokenizer": "/home/me/.brie/models/smollm2"},
        {"name": "base", "base_url": "http://127.0.0.1:8000/v1", "model": "smollm2", "version": "base",
         "tokenizer": "/home/me/.brie/models/smollm2"}],
     "against": "base",
     "held_out": {"file": "/path/held-out.jsonl"},
     "prompts": {},
     "judging": {"judges": [
        {"name": "big", "base_url": "https://.../v1", "model": "...", "key_env": "BRIE_EVALUATION_KEY_BIG"}]},
     "seed": 0}

Whatever is left out is not done: without `held_out` no loss is measured, without `prompts` nothing is generated,
without `judging` nothing is judged. `output` outlives an attempt: there lie the rows that a next attempt goes on from.
"""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(min_length=1, max_length=200)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
CRITERIA = ("relevance", "correctness", "depth", "clarity", "style")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Endpoint(_Strict):
    """A model behind an OpenAI-compatible API."""

    name: Name
    """What the report calls it; unique within candidates, and within judges."""
    base_url: Annotated[str, Field(pattern=r"^https?://")]
    """With /v1, as OpenAI's SDK has it."""
    model: Name
    key_env: Annotated[str, Field(pattern=r"^BRIE_EVALUATION_KEY[A-Z0-9_]*$")] | None = None
    """The environment variable that holds the key, so that no key is ever written down. The prefix keeps whoever may
    start an evaluation from having any other secret of the environment sent to a URL of theirs."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 120.0
    """Of one try, without a byte of an answer."""
    retries: Annotated[int, Field(ge=0, le=20)] = 4
    """Tries after the first, where a server is busy, breaks down or does not answer in time."""


class Candidate(Endpoint):
    """A model that is evaluated."""

    version: str | None = None
    """The adapter version it must answer with (`brie-adapter-version`; "base" for a base model), else the evaluation
    fails. None: the version of its first answer; it must stay the same in either case."""
    tokenizer: str | None = None
    """Folder with the model's tokenizer.json and chat template: held-out rows become tokens and labels by it, as in
    training. None: no held-out loss is measured for this candidate."""
    seed_offset: Seed = 0
    """Added to the seed of each of its samples: a model against itself needs samples of its own."""


class Judge(Endpoint):
    """A model that compares two answers."""

    structured: bool = True
    """Ask for the verdict's form by response_format; False for servers that refuse json_schema."""
    max_tokens: Annotated[int, Field(ge=16, le=8192)] = 512


class HeldOut(_Strict):
    """Rows that no candidate was trained on."""

    file: str
    """JSON Lines in any form that `supervised` training reads."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Tokens per example, cut at the end as in training; None cuts nothing, and a longer one than the context is
    counted as refused."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """The first so many rows."""


class Sampling(_Strict):
    """How answers are drawn: the same for every candidate. What is None is not sent."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    """vLLM's field, which not every server has."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    system_prompt: str | None = None
    """Put before prompts that have no system message of their own."""


class Prompts(_Strict):
    """What candidates are asked, and how often."""

    file: str | None = None
    """JSON Lines: {"prompt": str} or {"messages": [...]}, with `id`, `theme` and `reference` if there are any. None:
    Brie's own set."""
    themes: list[str] | None = None
    """Only these; None is all."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many of each theme."""
    from_held_out: Annotated[int, Field(ge=0)] = 0
    """So many held-out conversations are prompts too, with their last answer as reference, under the theme
    "held-out"."""
    samples: Annotated[int, Field(ge=1, le=64)] = 1
    """Answers of each candidate to each prompt, each with a seed of its own."""
    sampling: Sampling = Sampling()


class Sweep(_Strict):
    """A grid of samplings: every combination of the values that are given, the rest as in `prompts.sampling`."""

    temperature: list[float] = []
    top_p: list[float] = []
    repetition_penalty: list[float] = []
    system_prompt: list[str] = []
    candidates: list[str] | None = None
    """Names; None is all."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many prompts of each theme."""


class Judging(_Strict):
    """Blind comparisons of each candidate's answers with those of `against`, each in both orders."""

    judges: Annotated[list[Judge], Field(min_length=1, max_length=8)]
    samples: Annotated[int, Field(ge=1)] = 1
    """Of the samples of each prompt, so many are judged."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """At most so many prompts of each theme."""
    give_up_after: Annotated[int, Field(ge=1)] = 10
    """A judge that fails so often in a row is asked no more in this attempt. If it refused the last, what it was not
    asked is counted as such; if nothing came, the attempt fails behind the other judges, and the next asks again."""


class Statistics(_Strict):
    """How figures are told from noise."""

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000
    """Of the bootstrap, and of the test by chance exchanges."""


class Bound(_Strict):
    """What a figure may be."""

    min: Annotated[float, Field(allow_inf_nan=False)] | None = None
    max: Annotated[float, Field(allow_inf_nan=False)] | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max, so that nothing could pass")
        return self


Gate = dict[str, Bound]
"""By path into the report, or by a figure's name, which then holds for every candidate but `against`: see `gate`."""


class Job(_Strict):
    """job.json."""

    output: str
    """Folder for rows and report, which outlives the attempt; made if it is not there."""
    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=64)]
    against: str | None = None
    """The candidate that all others are compared with; None compares nothing."""
    held_out: HeldOut | None = None
    prompts: Prompts | None = None
    judging: Judging | None = None
    sweep: Sweep | None = None
    statistics: Statistics = Statistics()
    gate: Gate | None = None
    seed: Seed = 0
    concurrency: Annotated[int, Field(ge=1, le=64)] = 1
    """Requests at a time. One is what repeats to the bit on Brie's engine: beside others sums are taken in another
    order."""
    title: str | None = None
    """Of the page and the card."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [candidate.name for candidate in self.candidates]
        _unique(names, "candidates")
        if self.against is not None and self.against not in names:
            raise ValueError(f"against is {self.against!r}, which is none of the candidates")
        if self.held_out is None and self.prompts is None:
            raise ValueError("give held_out, prompts or both: else there is nothing to measure")
        if self.judging is not None:
            _unique([judge.name for judge in self.judging.judges], "judging.judges")
            if self.prompts is None or self.against is None:
                raise ValueError("judging needs prompts, and a candidate to compare with in against")
        if self.sweep is not None:
            self._check_sweep(names)
        if self.held_out is None and self.prompts is not None and self.prompts.from_held_out:
            raise ValueError("prompts.from_held_out needs held_out")
        return self

    def _check_sweep(self, names: list[str]) -> None:
        if self.prompts is None:
            raise ValueError("sweep needs prompts")
        if unknown := sorted(set(self.sweep.candidates or ()) - set(names) if self.sweep else ()):
            raise ValueError(f"sweep.candidates has {unknown[0]!r}, which is none of the candidates")

    def candidate(self, name: str) -> Candidate:
        """By its name."""
        return next(each for each in self.candidates if each.name == name)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Who is compared with whom, by name."""
        if self.against is None:
            return []
        return [(each.name, self.against) for each in self.candidates if each.name != self.against]

    def as_asked(self) -> dict[str, Any]:
        """All that decides what is asked and told, in JSON: what an attempt and another's rows must have in common.

        Where servers and files lie is no part of it: versions and digests say what they are.
        """
        asked = self.model_dump(mode="json", exclude={"output", "concurrency", "gate"})
        for endpoint in [*asked["candidates"], *(asked["judging"] or {"judges": []})["judges"]]:
            for name in ("base_url", "key_env", "timeout_seconds", "retries"):
                del endpoint[name]
        for candidate in asked["candidates"]:
            candidate["tokenizer"] = candidate["tokenizer"] is not None
        for part in ("held_out", "prompts"):
            if asked[part] is not None:
                asked[part]["file"] = asked[part]["file"] is not None
        return asked


def _unique(names: list[str], where: str) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where} has the name {twice[0]!r} twice")
