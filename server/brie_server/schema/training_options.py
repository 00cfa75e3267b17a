"""The object `brie` of a fine-tuning job: what OpenAI has no field for. None is auto."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from brie_server.schema.common import Flag, Name, Number, StrictBody

_Steps = Annotated[int, Field(ge=1, le=1_000_000), Number]
_Module = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class EarlyStopping(StrictBody):
    """When a run has learnt what it can; the best checkpoint is then the model."""

    patience: Annotated[int, Field(ge=1, le=1000, description="Validations in a row that may fail to improve."), Number]
    min_delta: Annotated[float, Field(ge=0, le=100, description="How much lower a loss counts as better."), Number] = (
        0.0
    )
    warmup_evals: Annotated[
        int, Field(ge=0, le=1000, description="First validations that count for nothing."), Number
    ] = 0


class BrieOptions(StrictBody):
    """What OpenAI has no field for; None is auto."""

    rank: Annotated[int, Field(ge=1, le=256), Number] | None = None
    alpha: Annotated[int, Field(ge=1, le=4096), Number] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1), Number] | None = None
    target_modules: Annotated[list[_Module], Field(min_length=1, max_length=64)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1), Number] | None = None
    max_length: Annotated[int, Field(ge=8), Number] | None = None
    early_stopping: EarlyStopping | None = None
    eval_steps: _Steps | None = None
    save_steps: _Steps | None = None
    save_total_limit: Annotated[int, Field(ge=1, le=1000), Number] | None = None
    quantization: Literal["8bit", "4bit"] | None = None
    packing: Flag | None = None
    from_checkpoint: Name | None = None
    gradient_checkpointing: Flag | None = None
    report_to: Annotated[list[Literal["tensorboard", "wandb", "trackio"]], Field(max_length=3)] | None = None
    num_processes: Annotated[int, Field(ge=1, le=64), Number] | None = None
    dry_run: Flag = False
