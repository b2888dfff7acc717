"""How many workers died with nothing but this job in hand.

Why: of a worker that dies with ten jobs in hand nine are innocent, and so may be the tenth.  Only
who was alone is to blame.  The workers that were counted so far count as shared.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE jobs ADD crashes_alone integer NOT NULL DEFAULT 0")
    _check("attempt >= 0 AND crashes >= 0 AND crashes_alone >= 0")


def downgrade() -> None:
    _check("attempt >= 0 AND crashes >= 0")
    op.execute("ALTER TABLE jobs DROP crashes_alone")


def _check(condition: str) -> None:
    op.execute("ALTER TABLE jobs DROP CONSTRAINT ck_jobs_counts")
    op.execute(f"ALTER TABLE jobs ADD CONSTRAINT ck_jobs_counts CHECK ({condition})")
