"""The JSON of Brie's own resources, which server and client share. OpenAI's own objects live in the server's schema."""

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Wire(BaseModel):
    """What goes over the wire: unknown fields are kept by readers, so that old clients read new servers."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Resource(Wire):
    """Anything with an id that a list may hold."""

    id: str


class Page(Wire, Generic[T]):
    """OpenAI's list envelope."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


L = TypeVar("L", bound=Resource)


def page_of(items: Sequence[L], limit: int | None = None) -> Page[L]:
    """The first `limit` of `items` as a page; ask the store for one more than `limit`, and `has_more` comes right."""
    data = list(items if limit is None else items[:limit])
    return Page(
        data=data,
        has_more=len(items) > len(data),
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


class Deleted(Wire):
    """What a DELETE answers."""

    id: str
    object: str
    deleted: bool = True


class AdapterObject(Resource):
    """A name that answers from an adapter version."""

    object: Literal["adapter"] = "adapter"
    created_at: int
    version: str
    """Digest of the adapter version."""
    base_model: str
    job_id: str | None = None
    manifest: dict[str, Any]
    """The version's brie.json."""
    evaluation: str | None = None
    """Of one that is asked for by name: the newest finished evaluation of exactly this version."""


class WorkerObject(Resource):
    """A worker, as it was last seen."""

    object: Literal["worker"] = "worker"
    host: str
    pid: int
    device: str
    """cpu, mps, or cuda with its number."""
    version: str
    """Of Brie."""
    kinds: list[str]
    """What it does: fine_tune, export, evaluation."""
    status: str
    """idle; busy; waiting, for its device; or gone: not seen for 20 seconds."""
    waiting: str | None = None
    """Why it cannot train, in words."""
    jobs: list[str]
    """Those in its hands."""
    started_at: int
    seen_at: int


class EventObject(Resource):
    """Something that happened to a job; each kind of job has its own `object`."""

    object: str
    created_at: int
    level: str
    message: str
    type: str
    data: dict[str, Any]


class ExportedFile(Wire):
    """A file that an export or an evaluation wrote."""

    filename: str
    bytes: int
    sha256: str


class ExportError(Wire):
    """Why an export or an evaluation failed."""

    code: str
    message: str
    param: str | None = None


class ExportObject(Resource):
    """An export job."""

    object: Literal["export"] = "export"
    created_at: int
    finished_at: int | None = None
    status: str
    model: str
    version: str | None = None
    """Digest of the adapter version that is exported; None for the base model."""
    format: str = "gguf"
    quantization: str | None = None
    """Of a GGUF file; None for the other formats."""
    dtype: str | None = None
    """Of a merged folder; None keeps the checkpoint's."""
    progress: float = 0.0
    """From 0 to 1."""
    message: str | None = None
    """What the export is doing, in words."""
    files: list[ExportedFile]
    """The main file first; of a merged folder, every file of it."""
    error: ExportError | None = None


class ExportEvent(EventObject):
    """Something that happened to an export, as fine-tuning jobs tell it."""

    object: Literal["export.event"] = "export.event"


class EvaluatedModel(Wire):
    """A model that an evaluation asks."""

    name: str
    """What the report calls it."""
    model: str
    """What its server is asked for."""
    version: str | None = None
    """Digest of the adapter version, "base" for the base model; None behind another server."""
    base_url: str | None = None
    """None: this server."""


class EvaluationJudge(Wire):
    """A model that compares answers for an evaluation."""

    name: str
    model: str
    base_url: str | None = None
    """None: this server."""


class EvaluationObject(Resource):
    """An evaluation job."""

    object: Literal["evaluation"] = "evaluation"
    created_at: int
    finished_at: int | None = None
    status: str
    models: list[EvaluatedModel]
    against: str | None = None
    """The name, among `models`, that all others are compared with."""
    job: str | None = None
    """The fine-tuning job whose checkpoints are compared."""
    data: str | None = None
    """The file of held-out rows; None where no loss is measured."""
    data_source: str | None = None
    """Where it was taken from: "given", or "validation_file" of a fine-tuning job."""
    prompts: str | None = None
    """The file of prompts, "default" for Brie's own set, None where nothing is generated."""
    judges: list[EvaluationJudge] = []
    seed: int
    base_model: str
    base_digest: str
    """Of the base's weights."""
    gate: dict[str, Any] | None = None
    """The bounds that the figures are held to."""
    progress: float = 0.0
    """From 0 to 1."""
    message: str | None = None
    """What the evaluation is doing, in words."""
    sentences: list[str] = []
    """Each comparison in one sentence."""
    gate_passed: bool | None = None
    """None without a gate, and before the end."""
    gate_sentences: list[str] = []
    """Each bound, and whether it holds."""
    files: list[ExportedFile] = []
    """report.json first."""
    error: ExportError | None = None


class EvaluationEvent(EventObject):
    """Something that happened to an evaluation, as fine-tuning jobs tell it."""

    object: Literal["evaluation.event"] = "evaluation.event"


class GateObject(Resource):
    """The bounds that a version must keep to before an adapter's name moves to it; the id is the name."""

    object: Literal["gate"] = "gate"
    created_at: int
    bounds: dict[str, Any]
    """By path into the report, as of an evaluation's `gate`: {"min": ..., "max": ...}."""
