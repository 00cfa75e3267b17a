"""The tables and what their columns hold. It knows types, and no connection.

What a database cannot hold (NUL is none of PostgreSQL's characters, half of a surrogate pair nobody's) is written as
U+FFFD, and looked for so: no text that people send fails in the database.
"""

import json
import math
import re
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

_UNWRITABLE = re.compile("[\0\ud800-\udfff]")


class Words(TypeDecorator[str]):
    """Text of at most `length` characters, sorted by its characters' numbers in whatever language a database is."""

    impl = String
    cache_ok = True

    def __init__(self, length: int | None = None) -> None:
        super().__init__(length)
        self._length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Ids sort by their time only in this order; SQLite knows no other."""
        collation = "C" if dialect.name == "postgresql" else None
        return dialect.type_descriptor(String(self._length, collation=collation))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What is written, and what is looked for."""
        return None if value is None else _UNWRITABLE.sub("\ufffd", value)


def json_text(value: Any) -> str:
    """JSON as every database takes it: a number that is none, such as the loss of a run that diverged, is null."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("id", Words(64), primary_key=True),
    Column("kind", Words(16), nullable=False),
    Column("status", Words(20), nullable=False),
    Column("spec", JSON, nullable=False),
    Column("result", JSON, nullable=False),
    Column("error", JSON),
    Column("created_at", BigInteger, nullable=False),
    Column("finished_at", BigInteger),
    Column("attempt", Integer, nullable=False),
    Column("events_offset", BigInteger, nullable=False),
    Column("lease_owner", Words(128)),
    Column("lease_token", Integer, nullable=False),
    Column("lease_expires_at", Float, nullable=False),
    Column("last_change", Words(32)),
    Index("ix_jobs_kind_id", "kind", "id"),
    Index("ix_jobs_status", "status", "id"),
)

events = Table(
    "events",
    metadata,
    Column("id", Words(64), primary_key=True),
    Column("job_id", Words(64), ForeignKey("jobs.id"), nullable=False),
    Column("seq", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("level", Words(8), nullable=False),
    Column("type", Words(8), nullable=False),
    Column("message", Words(), nullable=False),
    Column("data", JSON, nullable=False),
    UniqueConstraint("job_id", "seq", name="uq_events_job_seq"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("id", Words(64), primary_key=True),
    Column("job_id", Words(64), ForeignKey("jobs.id"), nullable=False),
    Column("step", Integer, nullable=False),
    Column("model", Words(512), nullable=False),
    Column("version", Words(64), nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("job_id", "step", name="uq_checkpoints_job_step"),
)

files = Table(
    "files",
    metadata,
    Column("id", Words(64), primary_key=True),
    Column("filename", Words(), nullable=False),
    Column("purpose", Words(32), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", Words(64), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
)

aliases = Table(
    "aliases",
    metadata,
    Column("name", Words(512), primary_key=True),
    Column("version", Words(64), nullable=False),
    Column("job_id", Words(64)),
    Column("created_at", BigInteger, nullable=False),
    Index("ix_aliases_version", "version"),
)

responses = Table(
    "responses",
    metadata,
    Column("id", Words(64), primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("response", Text, nullable=False),
    Column("context", Text, nullable=False),
    Index("ix_responses_age", "created_at", "id", "bytes"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", Words(128), primary_key=True),
    Column("host", Words(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("device", Words(32), nullable=False),
    Column("version", Words(32), nullable=False),
    Column("kinds", JSON, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", Float, nullable=False),
    Column("waits_for", Words()),
)
