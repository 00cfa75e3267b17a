"""/v1/fine_tuning on the wire, field by field as OpenAI has it; what is Brie's own stands in the object `brie`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from brie_core.wire import Resource, Wire
from brie_server.schema.common import Body, Metadata, Name, Number, Refused, StrictBody


def _auto(value: Any) -> Any:
    """`"auto"` is said by leaving the field out."""
    return None if value == "auto" else value


_Epochs = Annotated[int, Field(ge=1, le=50), Number]
_BatchSize = Annotated[int, Field(ge=1, le=256), Number]
_Multiplier = Annotated[float, Field(gt=0, le=1000), Number]
_Auto = Literal["auto"] | None
Epochs = Annotated[_Epochs | None, BeforeValidator(_auto, json_schema_input_type=_Epochs | _Auto)]
BatchSize = Annotated[_BatchSize | None, BeforeValidator(_auto, json_schema_input_type=_BatchSize | _Auto)]
Multiplier = Annotated[_Multiplier | None, BeforeValidator(_auto, json_schema_input_type=_Multiplier | _Auto)]


class Hyperparameters(Body):
    """What the caller fixes; None is auto."""

    n_epochs: Epochs = None
    batch_size: BatchSize = None
    learning_rate_multiplier: Multiplier = None


class Supervised(Body):
    """Options of the method `supervised`."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(Body):
    """How to train."""

    type: Literal["supervised"]
    supervised: Supervised = Supervised()
    dpo: Refused = None
    reinforcement: Refused = None


class BrieOptions(StrictBody):
    """What OpenAI has no field for; None is auto."""

    rank: Annotated[int, Field(ge=1, le=256), Number] | None = None
    alpha: Annotated[int, Field(ge=1, le=4096), Number] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1), Number] | None = None
    max_length: Annotated[int, Field(ge=8), Number] | None = None


class CreateJob(Body):
    """The body that starts a fine-tuning job."""

    model: Name
    training_file: Annotated[str, StringConstraints(min_length=1, max_length=128)]
    validation_file: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    suffix: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31), Number] | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    metadata: Metadata | None = None
    integrations: Refused = None
    brie: BrieOptions = BrieOptions()

    @model_validator(mode="after")
    def _one_place_for_hyperparameters(self) -> "CreateJob":
        if self.method is not None and self.hyperparameters is not None:
            raise ValueError("give hyperparameters inside method, or at the top without a method, not in both places")
        return self

    @property
    def chosen(self) -> Hyperparameters:
        """The hyperparameters, wherever they were given."""
        return self.method.supervised.hyperparameters if self.method else self.hyperparameters or Hyperparameters()


AutoOr = int | float | Literal["auto"]


class JobHyperparameters(Wire):
    """As OpenAI shows them: a number once it is known."""

    n_epochs: AutoOr = "auto"
    batch_size: AutoOr = "auto"
    learning_rate_multiplier: AutoOr = "auto"


class JobSupervised(Wire):
    """Options of the method."""

    hyperparameters: JobHyperparameters


class JobMethod(Wire):
    """How the job trains."""

    type: Literal["supervised"] = "supervised"
    supervised: JobSupervised


class JobError(Wire):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class FineTuningJob(Resource):
    """A fine-tuning job."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: Literal["brie"] = "brie"
    result_files: list[str]
    status: str
    training_file: str
    validation_file: str | None
    trained_tokens: int | None
    error: JobError | None
    seed: int
    hyperparameters: JobHyperparameters
    method: JobMethod
    integrations: list[Any]
    metadata: dict[str, str] | None


class JobEvent(Resource):
    """Something that happened to a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any]


class JobCheckpoint(Resource):
    """A step of a job that can be asked as a model."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int
