"""Workers, a job's last change, and on PostgreSQL: wide numbers, and texts sorted by their characters' numbers."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_WIDE = {
    "jobs": ("created_at", "finished_at", "events_offset"),
    "events": ("created_at",),
    "checkpoints": ("created_at",),
    "files": ("bytes", "created_at", "expires_at"),
    "aliases": ("created_at",),
    "responses": ("created_at", "bytes"),
}
_SORTED: dict[str, dict[str, int | None]] = {
    "jobs": {"id": 64, "kind": 16, "status": 20, "lease_owner": 128, "last_change": 32},
    "events": {"id": 64, "job_id": 64, "level": 8, "type": 8, "message": None},
    "checkpoints": {"id": 64, "job_id": 64, "model": 512, "version": 64},
    "files": {"id": 64, "filename": None, "purpose": 32, "sha256": 64},
    "aliases": {"name": 512, "version": 64, "job_id": 64},
    "responses": {"id": 64},
    "workers": {"id": 128, "host": 255, "device": 32, "version": 32, "waits_for": None},
}


def upgrade() -> None:
    """SQLite's numbers are wide, and its texts are sorted so, already."""
    op.add_column("jobs", sa.Column("last_change", sa.String(32)))
    op.create_table(
        "workers",
        sa.Column("id", sa.String(128), primary_key=True),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("device", sa.String(32), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("kinds", sa.JSON, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.Float, nullable=False),
        sa.Column("waits_for", sa.String),
    )
    if op.get_bind().dialect.name == "postgresql":
        _widen()


def _widen() -> None:
    for table, columns in _WIDE.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE BIGINT")
    for table, texts in _SORTED.items():
        for column, length in texts.items():
            kind = "VARCHAR" if length is None else f"VARCHAR({length})"
            op.execute(f'ALTER TABLE {table} ALTER COLUMN {column} TYPE {kind} COLLATE "C"')
