"""The one error tree. It knows OpenAI's envelope and the status codes, but nothing of how they are sent.

    BrieError                       500  server_error
    ├── InvalidRequest              400  invalid_request_error   (param names the field)
    │   ├── InvalidDataset          400    invalid_training_file | invalid_validation_file
    │   ├── InvalidAdapter          400    adapter_*             a folder that is not a sound LoRA adapter of this base
    │   └── ContextLengthExceeded   400    context_length_exceeded
    ├── Unauthenticated             401    invalid_api_key
    ├── Forbidden                   403    forbidden               (a foreign host or origin, without keys)
    ├── NotFound                    404    model_not_found | file_not_found | job_not_found | ...
    ├── Conflict                    409    version_conflict | adapter_in_use
    ├── PreconditionFailed          412    precondition_failed   (a download's file is another one)
    ├── UnsupportedMedia            415    unsupported_media_type
    ├── RangeNotSatisfiable         416    range_not_satisfiable
    ├── Overloaded                  429    server_overloaded     (Retry-After)
    ├── ClientGone                  499  client_closed_request (nobody reads it; never sent on purpose)
    ├── NotReady                    503    not_ready             (Retry-After)
    ├── DatabaseUnavailable         503    database_unavailable  (Retry-After)
    ├── InsufficientStorage         507    insufficient_storage
    ├── EngineFailure               500    engine_failure
    ├── BadConfiguration            500    a setting or a base model that cannot be used; ends the process with its text
    └── LeaseLost                   500    a worker that lost its job; never leaves the worker

A message says what is wrong, why, and what to do.
"""

from typing import ClassVar


class BrieError(Exception):
    """Root of everything Brie raises on purpose; carries the parts of OpenAI's error envelope."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    default_code: ClassVar[str | None] = None
    retry_after: ClassVar[int | None] = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's `{"error": {...}}`; `code` and `param` are strings or null, never numbers."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(BrieError):
    """The request cannot be honoured as it stands; `param` names the field."""

    status = 400
    type = "invalid_request_error"


class InvalidDataset(InvalidRequest):
    """A training or validation file that cannot be trained on; the message gives the line."""

    default_code = "invalid_training_file"


class InvalidAdapter(InvalidRequest):
    """A folder that is not a sound LoRA adapter of this base model."""

    default_code = "adapter_invalid"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context."""

    default_code = "context_length_exceeded"


class Unauthenticated(BrieError):
    """No API key, or not one of the server's."""

    status = 401
    type = "invalid_request_error"
    default_code = "invalid_api_key"


class Forbidden(BrieError):
    """The request comes from where this server does not answer."""

    status = 403
    type = "invalid_request_error"
    default_code = "forbidden"


class NotFound(BrieError):
    """The named thing does not exist (any more)."""

    status = 404
    type = "invalid_request_error"


class Conflict(BrieError):
    """The state has moved on since the caller looked."""

    status = 409
    type = "invalid_request_error"


class PreconditionFailed(BrieError):
    """The file is not the one that the caller holds a part of."""

    status = 412
    type = "invalid_request_error"
    default_code = "precondition_failed"


class UnsupportedMedia(BrieError):
    """The body is not of the content type the route reads."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class RangeNotSatisfiable(BrieError):
    """The file ends before the range begins."""

    status = 416
    type = "invalid_request_error"
    default_code = "range_not_satisfiable"


class Overloaded(BrieError):
    """The queue is full; come back later."""

    status = 429
    type = "rate_limit_error"
    default_code = "server_overloaded"
    retry_after = 2


class ClientGone(BrieError):
    """The client left before its answer was there; this ends the request, and nobody reads it."""

    status = 499
    default_code = "client_closed_request"


class NotReady(BrieError):
    """The server is still loading its model or already stopping."""

    status = 503
    default_code = "not_ready"
    retry_after = 2


class DatabaseUnavailable(BrieError):
    """The database is away, or was busy for too long. A change that was being committed may have been made, or not."""

    status = 503
    default_code = "database_unavailable"
    retry_after = 5


class InsufficientStorage(BrieError):
    """The disk has not the room that is needed; nothing was written, or it was taken away again."""

    status = 507
    default_code = "insufficient_storage"


class EngineFailure(BrieError):
    """The engine failed under a request; the request is not at fault."""

    default_code = "engine_failure"


class BadConfiguration(BrieError):
    """A setting or a base model that cannot be used."""

    default_code = "bad_configuration"


class LeaseLost(BrieError):
    """Another worker, or a cancellation, took the job: whoever gets this must stop and write nothing."""

    default_code = "lease_lost"
