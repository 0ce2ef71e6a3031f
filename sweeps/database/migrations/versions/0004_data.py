"""The data that attempts and evaluations saw, the newest loss of an attempt, and the presets a config was made from."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None

Json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
# All may be NULL: of what older code recorded nobody knows them.
COLUMNS: tuple[tuple[str, str, Any], ...] = (
    ("sw_attempt", "data", Json),
    ("sw_attempt", "loss", sa.Double()),
    ("sw_evaluation", "data", Json),
    ("sw_config", "method", sa.String(length=64)),
    ("sw_config", "scale", sa.String(length=16)),
)


def upgrade() -> None:
    for table, name, kind in COLUMNS:
        op.add_column(table, sa.Column(name, kind, nullable=True))


def downgrade() -> None:
    for table, name, _ in reversed(COLUMNS):
        op.drop_column(table, name)
