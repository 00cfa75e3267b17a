"""OpenAI's error envelope as a schema, for the OpenAPI document. Errors are rendered elsewhere, by `api.errors`."""

from pydantic import BaseModel, ConfigDict, Field


class ErrorFacts(BaseModel):
    """What is wrong; the table of codes is in docs/api.md."""

    model_config = ConfigDict(extra="forbid")

    message: str
    type: str
    param: str | None = Field(description="The field at fault.")
    code: str | None


class ErrorAnswer(BaseModel):
    """Every answer with a status of 400 or more."""

    model_config = ConfigDict(extra="forbid")

    error: ErrorFacts
