"""The first schema."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "sw_config",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("hash_version", sa.Integer(), nullable=False),
        sa.Column(
            "json", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sw_config")),
        sa.UniqueConstraint("hash", name=op.f("uq_sw_config_hash")),
    )
    op.create_table(
        "sw_environment",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column(
            "packages", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sw_environment")),
    )
    op.create_table(
        "sw_study",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column(
            "spec", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.Column("spec_hash", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sw_study")),
        sa.UniqueConstraint("name", name=op.f("uq_sw_study_name")),
    )
    op.create_table(
        "sw_alias",
        sa.Column("old_hash", sa.String(length=64), nullable=False),
        sa.Column("config_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("migration", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["config_id"], ["sw_config.id"], name=op.f("fk_sw_alias_config_id")),
        sa.PrimaryKeyConstraint("old_hash", name=op.f("pk_sw_alias")),
    )
    with op.batch_alter_table("sw_alias", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sw_alias_config_id"), ["config_id"], unique=False)

    op.create_table(
        "sw_cell",
        sa.Column("study_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("row_key", sa.String(length=200), nullable=False),
        sa.Column("col_key", sa.String(length=200), nullable=False),
        sa.Column("config_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column(
            "display", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=False
        ),
        sa.ForeignKeyConstraint(["config_id"], ["sw_config.id"], name=op.f("fk_sw_cell_config_id")),
        sa.ForeignKeyConstraint(["study_id"], ["sw_study.id"], name=op.f("fk_sw_cell_study_id")),
        sa.PrimaryKeyConstraint("study_id", "revision", "row_key", "col_key", name=op.f("pk_sw_cell")),
    )
    with op.batch_alter_table("sw_cell", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sw_cell_config_id"), ["config_id"], unique=False)

    op.create_table(
        "sw_paper",
        sa.Column("study_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("row_key", sa.String(length=200), nullable=False),
        sa.Column("col_key", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("source", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["sw_study.id"], name=op.f("fk_sw_paper_study_id")),
        sa.PrimaryKeyConstraint("study_id", "row_key", "col_key", name=op.f("pk_sw_paper")),
    )
    op.create_table(
        "sw_run",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("config_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("code_epoch", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("not_before", sa.Double(), nullable=False),
        sa.Column("n_fail", sa.Integer(), nullable=False),
        sa.Column("n_preempt", sa.Integer(), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("checkpoint_step", sa.BigInteger(), nullable=True),
        sa.Column("gpu_seconds", sa.Double(), nullable=False),
        sa.Column("cpu_seconds", sa.Double(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'running', 'done', 'failed', 'diverged', 'pruned', 'cancelled')",
            name=op.f("ck_sw_run_state"),
        ),
        sa.ForeignKeyConstraint(["config_id"], ["sw_config.id"], name=op.f("fk_sw_run_config_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sw_run")),
    )
    with op.batch_alter_table("sw_run", schema=None) as batch_op:
        batch_op.create_index(
            "ix_sw_run_queued",
            [sa.text("priority DESC"), "id"],
            unique=False,
            sqlite_where=sa.text("state = 'queued'"),
            postgresql_where=sa.text("state = 'queued'"),
        )
        batch_op.create_index(
            "ix_sw_run_lease",
            ["lease_until"],
            unique=False,
            sqlite_where=sa.text("state = 'running'"),
            postgresql_where=sa.text("state = 'running'"),
        )
        batch_op.create_index("uq_sw_run_identity", ["config_id", "seed", "code_epoch"], unique=True)

    op.create_table(
        "sw_artifact",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["sw_run.id"], name=op.f("fk_sw_artifact_run_id")),
        sa.PrimaryKeyConstraint("run_id", "attempt", "name", name=op.f("pk_sw_artifact")),
    )
    op.create_table(
        "sw_attempt",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("host", sa.String(length=200), nullable=True),
        sa.Column("slurm_job", sa.String(length=64), nullable=True),
        sa.Column("device", sa.String(length=200), nullable=True),
        sa.Column("git_sha", sa.String(length=64), nullable=True),
        sa.Column("dirty", sa.Boolean(), nullable=True),
        sa.Column("env_hash", sa.String(length=64), nullable=True),
        sa.Column("started", sa.Double(), nullable=False),
        sa.Column("ended", sa.Double(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("error_step", sa.BigInteger(), nullable=True),
        sa.Column("resume_step", sa.BigInteger(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("heartbeat", sa.Double(), nullable=True),
        sa.Column("peak_memory", sa.BigInteger(), nullable=True),
        sa.Column("peak_gpu_memory", sa.BigInteger(), nullable=True),
        sa.Column("gpu_seconds", sa.Double(), nullable=True),
        sa.Column("cpu_seconds", sa.Double(), nullable=True),
        sa.Column(
            "facts", sa.JSON().with_variant(postgresql.JSONB(astext_type=sa.Text()), "postgresql"), nullable=True
        ),
        sa.CheckConstraint(
            "outcome IN ('done', 'preempted', 'lost', 'failed', 'fenced', 'diverged', 'pruned', 'imported')",
            name=op.f("ck_sw_attempt_outcome"),
        ),
        sa.ForeignKeyConstraint(["run_id"], ["sw_run.id"], name=op.f("fk_sw_attempt_run_id")),
        sa.PrimaryKeyConstraint("run_id", "n", name=op.f("pk_sw_attempt")),
    )
    op.create_table(
        "sw_chunk",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("metric", sa.String(length=200), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("step0", sa.BigInteger(), nullable=False),
        sa.Column("step1", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("codec", sa.String(length=32), nullable=False),
        sa.Column("steps", sa.LargeBinary(), nullable=False),
        sa.Column("values", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["sw_run.id"], name=op.f("fk_sw_chunk_run_id")),
        sa.PrimaryKeyConstraint("run_id", "metric", "attempt", "seq", name=op.f("pk_sw_chunk")),
    )
    op.create_table(
        "sw_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("worker", sa.String(length=200), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["sw_run.id"], name=op.f("fk_sw_event_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sw_event")),
    )
    with op.batch_alter_table("sw_event", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sw_event_run_id"), ["run_id"], unique=False)

    op.create_table(
        "sw_result",
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("metric", sa.String(length=200), nullable=False),
        sa.Column("agg", sa.String(length=16), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("step", sa.BigInteger(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["sw_run.id"], name=op.f("fk_sw_result_run_id")),
        sa.PrimaryKeyConstraint("run_id", "metric", "agg", name=op.f("pk_sw_result")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sw_search",
        sa.Column("study_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("optuna_study", sa.String(length=200), nullable=False),
        sa.Column("trial_number", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["sw_run.id"], name=op.f("fk_sw_search_run_id")),
        sa.ForeignKeyConstraint(["study_id"], ["sw_study.id"], name=op.f("fk_sw_search_study_id")),
        sa.PrimaryKeyConstraint("study_id", "optuna_study", "trial_number", name=op.f("pk_sw_search")),
    )
    with op.batch_alter_table("sw_search", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_sw_search_run_id"), ["run_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("sw_search", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sw_search_run_id"))

    op.drop_table("sw_search")
    op.drop_table("sw_result")
    with op.batch_alter_table("sw_event", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sw_event_run_id"))

    op.drop_table("sw_event")
    op.drop_table("sw_chunk")
    op.drop_table("sw_attempt")
    op.drop_table("sw_artifact")
    with op.batch_alter_table("sw_run", schema=None) as batch_op:
        batch_op.drop_index("uq_sw_run_identity")
        batch_op.drop_index("ix_sw_run_queued")
        batch_op.drop_index(
            "ix_sw_run_lease", sqlite_where=sa.text("state = 'running'"), postgresql_where=sa.text("state = 'running'")
        )

    op.drop_table("sw_run")
    op.drop_table("sw_paper")
    with op.batch_alter_table("sw_cell", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sw_cell_config_id"))

    op.drop_table("sw_cell")
    with op.batch_alter_table("sw_alias", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_sw_alias_config_id"))

    op.drop_table("sw_alias")
    op.drop_table("sw_study")
    op.drop_table("sw_environment")
    op.drop_table("sw_config")
