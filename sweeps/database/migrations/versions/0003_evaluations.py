"""Evaluations made of a run after it was trained."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
Id = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "sw_evaluation",
        sa.Column("run_id", Id, nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("settings", Json, nullable=False),
        sa.Column("metrics", Json, nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("host", sa.String(length=200), nullable=True),
        sa.Column("device", sa.String(length=200), nullable=True),
        sa.Column("git_sha", sa.String(length=64), nullable=True),
        sa.Column("dirty", sa.Boolean(), nullable=True),
        sa.Column("env_hash", sa.String(length=64), nullable=True),
        sa.Column("ended", sa.Double(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("cpu_seconds", sa.Double(), nullable=False),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.Column("peak_memory", sa.BigInteger(), nullable=False),
        sa.Column("peak_gpu_memory", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["sw_run.id"], name=op.f("fk_sw_evaluation_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_sw_evaluation")),
    )


def downgrade() -> None:
    op.drop_table("sw_evaluation")
