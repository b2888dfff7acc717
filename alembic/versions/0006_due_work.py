"""Indexes that find due work, however many jobs wait for a later time.

Why: a claim hops from user to user.  With jobs that wait for their time in the same index, it may
hop over users who have nothing to do yet, and miss the one who has.  A job that was never put off
(``run_at <= created_at``) is due at once; the others are found by their time.
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("DROP INDEX idx_jobs_queued")
    op.execute(
        "CREATE INDEX idx_jobs_queued ON jobs (kind, user_id, run_at, id)"
        " WHERE state = 'queued' AND run_at <= created_at"
    )
    op.execute(
        "CREATE INDEX idx_jobs_put_off ON jobs (kind, run_at, id)"
        " WHERE state = 'queued' AND run_at > created_at"
    )


def downgrade() -> None:
    op.execute("DROP INDEX idx_jobs_put_off")
    op.execute("DROP INDEX idx_jobs_queued")
    op.execute(
        "CREATE INDEX idx_jobs_queued ON jobs (kind, user_id, run_at, id) WHERE state = 'queued'"
    )
