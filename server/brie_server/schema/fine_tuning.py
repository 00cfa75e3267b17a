"""What starts a fine-tuning job, field by field as OpenAI has it; what is Brie's own stands in the object `brie`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from brie_server.schema.common import Body, Metadata, Name, Number, Refused
from brie_server.schema.training_options import BrieOptions


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
_Beta = Annotated[float, Field(gt=0, le=2), Number]
Beta = Annotated[_Beta | None, BeforeValidator(_auto, json_schema_input_type=_Beta | _Auto)]


class Hyperparameters(Body):
    """What the caller fixes; None is auto."""

    n_epochs: Epochs = None
    batch_size: BatchSize = None
    learning_rate_multiplier: Multiplier = None


class PreferenceHyperparameters(Hyperparameters):
    """Those of a method that is held to a reference."""

    beta: Beta = None


class Supervised(Body):
    """Options of the method `supervised`."""

    hyperparameters: Hyperparameters = Hyperparameters()


class Preference(Body):
    """Options of the methods `dpo` and, Brie's own, `kto`."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()


class Method(Body):
    """How to train."""

    type: Literal["supervised", "dpo", "kto"]
    supervised: Supervised | None = None
    dpo: Preference | None = None
    kto: Preference | None = None
    reinforcement: Refused = None

    @model_validator(mode="after")
    def _only_its_own_options(self) -> "Method":
        for name in ("supervised", "dpo", "kto"):
            if name != self.type and getattr(self, name) is not None:
                raise ValueError(f"the method is {self.type}: options of {name} would be ignored, leave them out")
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those of the method that is meant."""
        options = getattr(self, self.type)
        return options.hyperparameters if options else Hyperparameters()


class WandB(Body):
    """Where Weights & Biases keeps the run."""

    project: Name
    name: Name | None = None
    entity: Name | None = None
    tags: Annotated[list[Name], Field(max_length=50)] | None = None


class Integration(Body):
    """Another service that is told of the run."""

    type: Literal["wandb"]
    wandb: WandB


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
    integrations: Annotated[list[Integration], Field(max_length=5)] | None = None
    brie: BrieOptions = BrieOptions()

    @model_validator(mode="after")
    def _one_place_for_hyperparameters(self) -> "CreateJob":
        if self.method is not None and self.hyperparameters is not None:
            raise ValueError("give hyperparameters inside method, or at the top without a method, not in both places")
        return self

    @model_validator(mode="after")
    def _early_stopping_has_something_to_look_at(self) -> "CreateJob":
        if self.brie.early_stopping is not None and self.validation_file is None:
            raise ValueError("brie.early_stopping looks at the validation loss: give a validation_file, too")
        return self

    @property
    def chosen(self) -> Hyperparameters:
        """The hyperparameters, wherever they were given."""
        return self.method.hyperparameters if self.method else self.hyperparameters or Hyperparameters()
