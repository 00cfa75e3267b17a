"""Fine-tuning jobs, their events and checkpoints as they are shown, field by field as OpenAI has them."""

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from brie_core.wire import EventObject, Resource, Wire

AutoOr = int | float | Literal["auto"]


class JobHyperparameters(Wire):
    """As OpenAI shows them: a number once it is known."""

    n_epochs: AutoOr = "auto"
    batch_size: AutoOr = "auto"
    learning_rate_multiplier: AutoOr = "auto"


class JobPreferenceHyperparameters(JobHyperparameters):
    """Those of a method that is held to a reference."""

    beta: AutoOr = "auto"


class JobSupervised(Wire):
    """Options of the method."""

    hyperparameters: JobHyperparameters


class JobPreference(Wire):
    """Options of the method."""

    hyperparameters: JobPreferenceHyperparameters


class JobMethod(Wire):
    """How the job trains; only the method's own options are there."""

    type: Literal["supervised", "dpo", "kto"]
    supervised: JobSupervised | None = None
    dpo: JobPreference | None = None
    kto: JobPreference | None = None

    @model_serializer(mode="wrap")
    def _without_the_others(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return {name: value for name, value in written.items() if value is not None}


class JobDetails(Wire):
    """What is Brie's own: what was asked for, what was chosen, what is expected, what the data hold."""

    options: dict[str, Any]
    chosen: dict[str, Any] | None
    """Every hyperparameter, once the run has begun."""
    estimate: dict[str, Any] | None
    data: dict[str, Any] | None
    best_step: int | None
    method: JobMethod | None
    """Where it is none of OpenAI's."""
    attempts: int
    waiting: str | None
    """Why it does not go on."""


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
    method: JobMethod | None
    """Left out where it is none of OpenAI's: a client that validates strictly could not read the job, nor any list with
    it; `brie.method` then has it."""
    integrations: list[Any]
    metadata: dict[str, str] | None
    brie: JobDetails

    @model_serializer(mode="wrap")
    def _without_a_method_of_ours(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = write(self)
        return (
            written if self.method is not None else {name: value for name, value in written.items() if name != "method"}
        )


class JobEvent(EventObject):
    """Something that happened to a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"


class JobCheckpoint(Resource):
    """A step of a job that can be asked as a model."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int
