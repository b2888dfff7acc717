"""Which process claimed a job.

Why: a lease tells within seconds that its holder is gone, by time alone.  Workers of the same
machine can tell at once, where they know which process to look for.  No index: few jobs run at a
time, and ``idx_jobs_running`` finds those.
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE jobs ADD holder text")


def downgrade() -> None:
    op.execute("ALTER TABLE jobs DROP holder")
