"""What starts an evaluation, and a gate. It knows fields and bounds; which models there are is not its business."""

from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from brie_core.settings import OWN_EVALUATION_KEY
from brie_server.schema.common import Flag, Number, Probability, StrictBody, Temperature, TokenCount
from brie_server.schema.conditions import KEY_OF_ANOTHER_SERVER, ONE_GATE, one_of_fields

MOST_CANDIDATES = 64
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
FileId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$", max_length=2048)]
"""Without a name and a password: it is kept in a row."""
Count = Annotated[int, Field(ge=1, le=10**6), Number]
Penalty = Annotated[float, Field(ge=0.01, le=100), Number]
Text = Annotated[str, StringConstraints(min_length=1, max_length=65_536)]


def _not_our_own(name: str) -> str:
    if name == OWN_EVALUATION_KEY:
        raise ValueError("this variable holds a key of this very server, which goes to no other")
    return name


KeyVariable = Annotated[
    str, StringConstraints(pattern=r"^BRIE_EVALUATION_KEY[A-Z0-9_]*$", max_length=128), AfterValidator(_not_our_own)
]


def _of_another_server(variable: str | None, info: ValidationInfo) -> str | None:
    if variable is not None and info.data.get("base_url") is None:
        raise ValueError("it is for another server: give its base_url, or leave key_env out")
    return variable


def _above_min(most: float | None, info: ValidationInfo) -> float | None:
    least = info.data.get("min")
    if most is not None and least is not None and most < least:
        raise ValueError("max is below min, so that nothing could pass")
    return most


def _alone(name: str | None, info: ValidationInfo) -> str | None:
    if name is not None and info.data.get("gate") is not None:
        raise ValueError("give gate or gate_of, not both")
    return name


def _as_model(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


class Asked(StrictBody):
    """A model of this server by its name, or one behind another OpenAI-compatible server."""

    model_config = ConfigDict(json_schema_extra={"allOf": [KEY_OF_ANOTHER_SERVER]})

    model: ModelName
    base_url: Url | None = None
    """With /v1, as OpenAI's SDK has it; None is this server."""
    name: ModelName | None = None
    """What the report calls it; by default the model."""
    key_env: Annotated[KeyVariable | None, AfterValidator(_of_another_server)] = None
    """The variable, in the worker's environment, that holds the other server's key."""
    timeout_seconds: Annotated[float, Field(gt=0, le=3600), Number] | None = None
    retries: Annotated[int, Field(ge=0, le=20), Number] | None = None

    @property
    def called(self) -> str:
        """In the report."""
        return self.name or self.model


class AskedJudge(Asked):
    """A model that compares two answers without knowing whose they are."""

    structured: Flag = True
    """Whether it is asked for its verdict's form by response_format."""
    max_tokens: Annotated[int, Field(ge=16, le=8192), Number] = 512


Candidate = Annotated[Asked, BeforeValidator(_as_model, json_schema_input_type=ModelName | Asked)]


class EvaluationSampling(StrictBody):
    """How answers are drawn, the same for every candidate."""

    temperature: Temperature = 0.7
    top_p: Probability = 1.0
    repetition_penalty: Penalty | None = None
    max_tokens: TokenCount = 256
    system_prompt: Text | None = None


class Sweep(StrictBody):
    """A grid of samplings: every combination of the values that are given."""

    temperature: Annotated[list[Temperature], Field(max_length=32)] = Field(default_factory=list)
    top_p: Annotated[list[Probability], Field(max_length=32)] = Field(default_factory=list)
    repetition_penalty: Annotated[list[Penalty], Field(max_length=32)] = Field(default_factory=list)
    system_prompt: Annotated[list[Text], Field(max_length=32)] = Field(default_factory=list)
    limit: Count | None = None
    """At most so many prompts of each theme."""


class JudgingOptions(StrictBody):
    """How much is judged."""

    samples: Annotated[int, Field(ge=1, le=64), Number] = 1
    limit: Count | None = None
    give_up_after: Count = 10


class Statistics(StrictBody):
    """How figures are told from noise."""

    confidence: Annotated[float, Field(ge=0.5, lt=1), Number] = 0.95
    resamples: Annotated[int, Field(ge=100, le=100_000), Number] = 2000


class Bound(StrictBody):
    """What a figure may be."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [one_of_fields("min"), one_of_fields("max")]})

    min: Annotated[float, Number] | None = None
    max: Annotated[Annotated[float, Number] | None, AfterValidator(_above_min)] = None

    @model_validator(mode="after")
    def _bounds_something(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        return self


Path = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Gate = Annotated[dict[Path, Bound], Field(min_length=1, max_length=256)]


class PutGate(StrictBody):
    """The bounds that an adapter's versions must keep to."""

    bounds: Gate


class CreateEvaluation(StrictBody):
    """Ask how models compare."""

    model_config = ConfigDict(json_schema_extra={"allOf": [one_of_fields("model", "models", "job"), ONE_GATE]})

    model: Candidate | None = None
    models: Annotated[list[Candidate], Field(min_length=1, max_length=MOST_CANDIDATES - 1)] | None = None
    job: FileId | None = None
    """A fine-tuning job: every checkpoint of it."""
    against: Candidate | None = None
    """By default the base model."""
    data: FileId | None = None
    """A file of held-out rows, or "none"; by default the validation file of the job that trained the model."""
    data_limit: Count | None = None
    """The first so many rows."""
    max_length: Annotated[int, Field(ge=2, le=2**31 - 1), Number] | None = None
    """Tokens per held-out row; longer ones are cut."""
    prompts: FileId = "default"
    """An uploaded file of prompts, "default" for Brie's own, or "none"."""
    themes: Annotated[list[ModelName], Field(min_length=1, max_length=64)] | None = None
    limit: Count | None = None
    """At most so many prompts of each theme."""
    held_out_prompts: Annotated[int, Field(ge=0, le=10**6), Number] | None = None
    """So many held-out conversations are asked as prompts too, and compared with their answers; by default 16."""
    samples: Annotated[int, Field(ge=1, le=64), Number] = 1
    sampling: EvaluationSampling = EvaluationSampling()
    sweep: Sweep | None = None
    judges: Annotated[list[AskedJudge], Field(max_length=8)] = Field(default_factory=list)
    judging: JudgingOptions = JudgingOptions()
    statistics: Statistics = Statistics()
    gate: Gate | None = None
    """Bounds by path into the report."""
    gate_of: Annotated[ModelName | None, AfterValidator(_alone)] = None
    """The adapter's name whose stored gate is meant."""
    seed: Annotated[int, Field(ge=0, lt=2**31), Number] = 0
    concurrency: Annotated[int, Field(ge=1, le=64), Number] = 1
    title: ModelName | None = None

    @property
    def questions(self) -> list[str]:
        """Which of the three fields say what is evaluated: one of them should."""
        return [name for name in ("model", "models", "job") if getattr(self, name) is not None]
