"""One count of the workers that died with a job, and no other.

Why: who was to blame is not looked into any more; a job that loses worker after worker waits, and
is closed after ten (docs/decisions/0007).  Workers of the version before read the column: stop them
first.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _check("attempt >= 0 AND crashes >= 0")
    op.execute("ALTER TABLE jobs DROP crashes_alone")


def downgrade() -> None:
    op.execute("ALTER TABLE jobs ADD crashes_alone integer NOT NULL DEFAULT 0")
    _check("attempt >= 0 AND crashes >= 0 AND crashes_alone >= 0")


def _check(condition: str) -> None:
    op.execute("ALTER TABLE jobs DROP CONSTRAINT ck_jobs_counts")
    op.execute(f"ALTER TABLE jobs ADD CONSTRAINT ck_jobs_counts CHECK ({condition})")
