"""The claim's index, by user.

Why: workers take turns over the users who have work waiting.  Ranking everything that is queued
costs the more the longer the queue; with the user in the index, a claim hops from user to user and
reads the first few rows of each, however many wait.  ``user_id`` becomes NOT NULL for that: work
that is nobody's counts as the nil UUID's.
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

NOBODY = "'00000000-0000-0000-0000-000000000000'"


def upgrade() -> None:
    op.execute(f"UPDATE jobs SET user_id = {NOBODY} WHERE user_id IS NULL")  # noqa: S608
    op.execute(f"ALTER TABLE jobs ALTER user_id SET DEFAULT {NOBODY}, ALTER user_id SET NOT NULL")
    op.execute("DROP INDEX idx_jobs_queued")
    op.execute(
        "CREATE INDEX idx_jobs_queued ON jobs (kind, user_id, run_at, id) WHERE state = 'queued'"
    )


def downgrade() -> None:
    op.execute("DROP INDEX idx_jobs_queued")
    op.execute("CREATE INDEX idx_jobs_queued ON jobs (kind, run_at) WHERE state = 'queued'")
    op.execute("ALTER TABLE jobs ALTER user_id DROP DEFAULT, ALTER user_id DROP NOT NULL")
    op.execute(f"UPDATE jobs SET user_id = NULL WHERE user_id = {NOBODY}")  # noqa: S608
