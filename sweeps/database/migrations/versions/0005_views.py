"""Views of runs, results and cells, for whoever asks the database without this program."""

from collections.abc import Sequence

from alembic import op

from sweeps.database import views

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    views.create(op.get_bind())


def downgrade() -> None:
    views.drop(op.get_bind())
